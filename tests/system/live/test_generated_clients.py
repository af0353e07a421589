"""Clients that generators make from the OpenAPI document, by the commands of docs/http-api.md."""

import os
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import Server, run, running
from tests.system.live.clients import BIN
from tests.system.live.node import NODE, packages_folder

pytestmark = pytest.mark.live

PAGE = (Path(__file__).parents[3] / "docs" / "http-api.md").read_text()
SECTION = PAGE.partition("## Generated clients\n")[2].partition("\n## ")[0]
DOCUMENTED_URL = "http://127.0.0.1:8000"
PRINTED = ["204 True", "['films/film.mp4']", "b'cdef'", "films/renamed.mp4 204"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("generated")) as server:
        yield server


def blocks(language: str, server: Server) -> list[str]:
    found = re.findall(rf"```{language}\n(.*?)```", SECTION, re.DOTALL)
    return [text.replace(DOCUMENTED_URL, server.url) for text in found]


def commands(program: str, server: Server) -> list[list[str]]:
    """Return the arguments of the documented commands that run this program."""
    lines = [shlex.split(line) for block in blocks("sh", server) for line in block.splitlines()]
    return [arguments for name, *arguments in lines if name == program]


def test_generated_python_client_works(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{BIN}{os.pathsep}{os.environ['PATH']}")  # for ruff, which formats the client
    (arguments,) = commands("openapi-python-client", server)
    report = run(BIN / "openapi-python-client", *arguments).stderr
    warnings = set(re.findall(r"WARNING parsing (.*) within", report))
    assert warnings == {"GET /playlist.m3u", "GET /playlist.xspf"}, "the page names these two"
    monkeypatch.setenv("PYTHONPATH", "seekable-client")
    (program,) = blocks("python", server)
    output = run(sys.executable, "-W", "error", "-c", program).stdout
    assert output.splitlines() == PRINTED


IMPORT_ALL = """
import importlib, pkgutil, seekable_client
for module in pkgutil.walk_packages(seekable_client.__path__, "seekable_client."):
    importlib.import_module(module.name)
    print(module.name)
"""


def test_generated_python_client_works_with_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", "seekable-client")
    account = {"email": "anna@example.org", "password": "correct horse battery staple"}
    with running(tmp_path / "server", access="accounts", sign_up="open") as server, server.client() as http:
        http.post("/sign-up", json=account).raise_for_status()
        new = {"name": "generated client", "scopes": ["read", "write"]}
        token = http.post("/account/tokens", json=new).raise_for_status().json()["token"]
        (arguments,) = commands("openapi-python-client", server)
        run(BIN / "openapi-python-client", *arguments)
        modules = run(sys.executable, "-W", "error", "-c", IMPORT_ALL).stdout.split()
        assert "seekable_client.api.tokens.tokens_create" in modules
        (program,) = blocks("python", server)
        program = program.replace("import Client", "import AuthenticatedClient")
        program = program.replace("Client(base_url=", f"AuthenticatedClient(token={token!r}, base_url=")
        assert run(sys.executable, "-W", "error", "-c", program).stdout.splitlines() == PRINTED


def test_generated_typescript_types_fit_responses(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (program,) = blocks("ts", server)
    Path("client.mts").write_text(program)
    for name, *arguments in commands("npx", server):
        run(NODE, packages_folder() / "node_modules" / ".bin" / name, *arguments)
    (arguments,) = commands("node", server)
    files, part, moved = "[ 'films/film.mp4' ]", "206 bytes 2-5/10 cdef", "films/renamed.mp4 204"
    assert run(NODE, *arguments).stdout.splitlines() == ["204 true", files, part, moved]
