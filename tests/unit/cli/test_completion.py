"""Completion of commands in shells: fast, and without any effect."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import SEEKABLE, need

HEAVY = {
    "alembic",
    "fastapi",
    "jinja2",
    "mongoengine",
    "pymongo",
    "segno",
    "sqlalchemy",
    "starlette",
    "uvicorn",
}
"""Libraries that a completion must not load: a person waits for it at the keyboard."""

BASH = """
eval "$(_SEEKABLE_COMPLETE=bash_source seekable)"
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
_seekable_completion seekable 2>&1
printf '%s\\n' "${COMPREPLY[@]}"
"""
"""Calls the function that bash calls for the Tab key, with the words of a line."""


def environment(**more: str) -> dict[str, str]:
    path = f"{Path(SEEKABLE).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, **more}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("seekable v", ["verify"]),
        ("seekable account pro", ["promote"]),
        ("seekable serve --acc", ["--access"]),
        ("seekable serve --access ac", ["accounts"]),
        ("seekable copy --to g", ["gridfs"]),
        ("seekable no-such-command", [""]),
    ],
)
def test_bash_completes_commands_options_and_choices(tmp_path: Path, line: str, expected: list[str]) -> None:
    need("bash")
    bash = ["bash", "--norc", "--noprofile", "-c", BASH, "bash", *line.split()]
    done = subprocess.run(bash, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == expected
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_script_for_shell_is_printed(tmp_path: Path, shell: str) -> None:
    printed = subprocess.run(
        [SEEKABLE], env=environment(_SEEKABLE_COMPLETE=f"{shell}_source"), capture_output=True, text=True
    )
    assert printed.returncode == 0
    assert f"_SEEKABLE_COMPLETE={shell}_complete" in printed.stdout


def test_completion_loads_no_heavy_library(tmp_path: Path) -> None:
    code = (
        "import atexit, sys\n"
        "atexit.register(lambda: print('loaded:', *sys.modules))\n"
        "sys.argv[0] = 'seekable'\n"
        "from app.cli import main; main()"
    )
    completing = environment(_SEEKABLE_COMPLETE="bash_complete", COMP_WORDS="seekable s", COMP_CWORD="1")
    done = subprocess.run([sys.executable, "-c", code], env=completing, capture_output=True, text=True)
    completions, loaded = done.stdout.split("loaded:")
    assert completions.split() == ["plain,scan", "plain,serve"]
    assert set(loaded.split()) & HEAVY == set()
