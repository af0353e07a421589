"""The commands of the tutorial."""

import os
import re
import shlex
from pathlib import Path

import pytest

from tests.support import Server, need, on_disk_and_gridfs, run

pytestmark = pytest.mark.live

TUTORIAL = (Path(__file__).parents[3] / "docs" / "tutorial.md").read_text()


@on_disk_and_gridfs
def test_commands_of_tutorial_work(
    server: Server, tmp_path: Path, film: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("curl")
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", TUTORIAL, re.DOTALL)).replace("\\\n", " ")
    commands = [shlex.split(line, comments=True) for line in blocks.splitlines()]
    curls = [command for command in commands if command and command[0] == "curl"]
    assert len(curls) > 9
    (tmp_path / "film.mp4").write_bytes(film.read_bytes())
    monkeypatch.chdir(tmp_path)
    for command in curls:
        if "-C" in command:
            os.truncate("film.mp4", 1000)  # as after an interrupted download
        result = run(
            *(word.replace("http://127.0.0.1:8000", server.url) for word in command), "--fail", "-sS"
        )
        if "/files?" in " ".join(command):
            assert '"filename":"film.mp4"' in result.stdout, command
    assert (tmp_path / "film.mp4").read_bytes() == film.read_bytes()
