"""Help, suggestions and exit statuses of every command."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from app.cli import main


@pytest.fixture(autouse=True)
def clean_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [*os.environ]:
        if name.startswith("SEEKABLE_"):
            monkeypatch.delenv(name)


def seekable(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, prog_name="seekable", terminal_width=80)


def commands(group: click.Group, *path: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yield every command below a group, with its words."""
    for name, command in group.commands.items():
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands(command, *path, name)


EVERY = [*commands(main)]


@pytest.mark.parametrize("path", [(), *(path for path, _ in EVERY)], ids=" ".join)
def test_help_is_whole_and_within_80_columns(path: tuple[str, ...]) -> None:
    printed = seekable(*path, "-h")
    assert printed.exit_code == 0
    assert max(map(len, printed.output.splitlines())) <= 80
    assert "..." not in printed.output.replace("[ARGS]...", "").replace("[COMMAND]...", "")
    assert seekable(*path, "--help").output == printed.output
    assert seekable("help", *path).output == printed.output
    if path:
        assert seekable(*path[:-1], "help", path[-1]).output == printed.output


@pytest.mark.parametrize("group", [(), ("account",)])
def test_list_of_commands_has_whole_sentences(group: tuple[str, ...]) -> None:
    output = " ".join(seekable(*group, "help").output.split())
    for path, command in EVERY:
        if path[:-1] == group:
            assert command.help is not None
            sentence = " ".join(command.help.split("\n\n")[0].split()).partition(". ")[0].rstrip(".")
            assert f"{path[-1]} {sentence}." in output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("srve",), "Did you mean 'serve'?"),
        (("help", "srve"), "Did you mean 'serve'?"),
        (("account", "lst"), "Did you mean 'list'?"),
        (("serve", "--prot", "1"), "'--port'"),
        (("copy", "--mirorr"), "'--mirror'"),
        (("serve", "--access", "everyone"), "'loopback', 'open', 'accounts'"),
        (("xyzzy",), "No such command 'xyzzy'."),
        (("account", "add"), "Missing argument 'EMAIL'."),
        (("account", "remove", "a@nas", "--to", "b@nas"), "--to needs --keep-files."),
        (("serve", "--port", "65536"), "0<=x<=65535"),
        (("serve", "one", "two"), "does not exist"),
        (("serve", "--uds", "s", "-p", "1"), "--uds cannot be combined"),
        (("serve", "--uds", "s", "--qr"), "--uds cannot be combined"),
    ],
)
def test_wrong_usage_exits_2_with_the_nearest_word(arguments: tuple[str, ...], words: str) -> None:
    refused = seekable(*arguments)
    assert refused.exit_code == 2
    assert words in refused.output


@pytest.mark.parametrize("name", ["my films", "scanned", "./scan"])
def test_folder_in_place_of_command_is_answered_with_serve(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    refused = seekable(name)
    assert refused.exit_code == 2
    folder = f"'{name}'" if " " in name else name
    assert refused.output.endswith(f"Error: {folder} is a folder. To serve it: seekable serve {folder}\n")


def test_command_wins_over_folder_of_that_name(tmp_path: Path) -> None:
    (tmp_path / "scan").mkdir()
    assert "There is no library here" in seekable("scan").output


@pytest.mark.parametrize(
    ("arguments", "settings", "words"),
    [
        (("migrate",), {"PORT": "many"}, "SEEKABLE_PORT: "),
        (("scan",), {}, "There is no library here"),
        (("serve", "-p", "0", "."), {"STORAGE": "gridfs", "MONGODB_URL": "mongodb://nas"}, "Omit the folder"),
        (("serve", "-p", "0", "--host", "0.0.0.0"), {}, "add --access accounts, or set"),
        (("serve", "-p", "0", "--host", "0.0.0.0", "--read-only"), {}, "0.0.0.0 could read. "),
        (("serve", "-p", "0", "--access", "loopback"), {"HOST": "::", "ACCESS": "open"}, "can reach ::"),
        (("serve", "-p", "0", "--qr"), {"ACCESS": "open"}, "--host 0.0.0.0"),
        (("serve", "-p", "0", "--host", ""), {}, "It is empty. Write 127.0.0.1 "),
        (("serve", "-p", "0", "--host", "127.0.0.1:8000"), {}, "Write --host 127.0.0.1 --port 8000,"),
        (("serve", "-p", "0"), {"HOST": "http://nas:80/"}, "SEEKABLE_HOST=nas and SEEKABLE_PORT=80."),
        (("serve", "-p", "0"), {"HOST": "[::1]:8000"}, "Write --host ::1 --port 8000,"),
        (("copy",), {}, "Set SEEKABLE_COPY_TO_STORAGE, or its option"),
    ],
)
def test_wrong_combination_with_settings_exits_2_with_one_line(
    arguments: tuple[str, ...],
    settings: dict[str, str],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    # So that the values that options override are restored.
    for name in ("HOST", "PORT", "ACCESS", "FILES_DIR", "READ_ONLY"):
        monkeypatch.setenv(f"SEEKABLE_{name}", "")
        monkeypatch.delenv(f"SEEKABLE_{name}")
    for name, value in settings.items():
        monkeypatch.setenv(f"SEEKABLE_{name}", value)
    refused = seekable(*arguments)
    assert refused.exit_code == 2
    assert refused.output.startswith("Error: ")
    assert words in refused.output
    assert refused.output.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_migrate_names_the_database(tmp_path: Path) -> None:
    assert seekable("migrate").output == f"The database of {tmp_path}/files is at the newest schema.\n"
    assert json.loads(seekable("migrate", "--json").output) == {"library": f"{tmp_path}/files"}
    assert seekable("migrate", "--quiet").output == ""
