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
for line; do
    COMP_WORDS=($line) COMP_CWORD=$((${#COMP_WORDS[@]} - 1)) COMPREPLY=()
    _seekable_completion seekable 2>&1
    printf '%s,' "${COMPREPLY[@]}"
    echo
done
"""
"""Calls the function that bash calls for the Tab key, with the words of each line."""


def environment(**more: str) -> dict[str, str]:
    path = f"{Path(SEEKABLE).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, **more}


COMPLETIONS = {
    "seekable v": "verify",
    "seekable account pro": "promote",
    "seekable serve --acc": "--access",
    "seekable serve --access ac": "accounts",
    "seekable copy --to g": "gridfs",
    "seekable no-such-command": "",
}


def test_bash_completes_commands_options_and_choices(tmp_path: Path) -> None:
    need("bash")
    bash = ["bash", "--norc", "--noprofile", "-c", BASH, "bash", *COMPLETIONS]
    done = subprocess.run(bash, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == [f"{expected}," for expected in COMPLETIONS.values()]
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("shell", ["zsh", "fish"])
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
