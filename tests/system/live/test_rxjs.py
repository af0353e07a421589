"""The server's WebSockets work with webSocket of RxJS."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from tests.support import Server, running
from tests.system.live.node import NODE, SCRIPTS, packages_folder

APP = "https://app.example"

pytestmark = pytest.mark.live


class Page:
    """A script in Node.js that prints the messages of its WebSocket."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def receive(self) -> Any:
        """Return the next message."""
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def receive_rest(self) -> list[Any]:
        output, _ = self._process.communicate(timeout=30)
        return [json.loads(line) for line in output.splitlines()]


@contextmanager
def page(server: Server, target: str, last: str, *texts: str, origin: str = "") -> Iterator[Page]:
    """Run a page that ends with the first message for which `last` is true.

    `last` is a JavaScript expression of the message `m` and its number `n`.
    """
    url = server.url.replace("http", "ws") + target
    process = subprocess.Popen(
        [NODE, SCRIPTS / "socket.mjs", packages_folder(), url, origin, last, *texts],
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield Page(process)
        finally:
            process.kill()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("rxjs"), cors_origins=APP) as server:
        yield server


@pytest.mark.parametrize("origin", ["", APP, "own"])
def test_page_receives_sid_and_pong_for_every_text(server: Server, origin: str) -> None:
    origin = server.url if origin == "own" else origin
    with page(server, "/", "n === 3", "one", "two", "three", origin=origin) as session:
        greeting, *messages = session.receive_rest()
    assert set(greeting) == {"sid"}
    assert messages == [{"pong": True}] * 3 + ["complete"]


@pytest.mark.parametrize("target", ["/", "/events"])
@pytest.mark.parametrize("origin", ["https://other.example", "null"])
def test_page_of_other_origin_is_refused(server: Server, target: str, origin: str) -> None:
    with page(server, target, "true", origin=origin) as foreign:
        assert foreign.receive_rest() == [{"error": "Unexpected server response: 403"}]


def test_page_receives_progress_of_its_upload_and_changes(server: Server) -> None:
    film = b"f" * (8 << 20)
    done = "m.progress && m.progress.received === m.progress.total"
    with ExitStack() as stack:
        session = stack.enter_context(page(server, "/", done, "hello"))
        listener = stack.enter_context(page(server, "/events", "n === 2"))
        sid = session.receive()["sid"]
        assert session.receive() == {"pong": True}
        assert listener.receive() == {"type": "resync"}
        with server.client() as http:
            response = http.post("/file/upload", files={"file": ("film.mp4", film)}, data={"sid": sid})
            created = response.raise_for_status().json()
            http.delete("/files/film.mp4").raise_for_status()
        *messages, end = session.receive_rest()
        assert end == "complete"
        assert len(messages) > 1
        assert {message["progress"]["filename"] for message in messages} == {"film.mp4"}
        assert messages[-1]["progress"]["total"] > len(film)
        change = {"id": created["id"], "path": "film.mp4", "etag": created["etag"]}
        assert listener.receive_rest() == [
            {"type": "file.created", **change},
            {"type": "file.deleted", **change},
            "complete",
        ]
