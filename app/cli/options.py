"""Options and arguments that several commands share: the folder, and --json and --quiet.

With --json a command prints for scripts, and with --quiet only problems. Standard output receives nothing
else: progress, questions and log records go to standard error.
"""

import json
import os
import shlex
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import wraps
from math import isfinite
from pathlib import Path
from typing import Any

import click

from app import logs
from app.settings import ConfigurationError, Settings

Command = Callable[..., None]


class FolderPath(click.Path):
    """An existing folder other than the root. It is converted to an absolute path."""

    def __init__(self) -> None:
        super().__init__(file_okay=False)  # for the completion of shells

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not value.strip():
            raise click.UsageError("The folder has no name. For this folder, write a dot.", ctx)
        path = Path(os.path.expanduser(value))
        # resolve() would also replace the name of a symbolic link, which a reader knows.
        path = path.resolve() if ".." in path.parts else path.absolute()
        if (problem := _problem(path)) is not None:
            raise click.UsageError(problem, ctx)
        return str(path)


def _problem(folder: Path) -> str | None:
    """Return a sentence why the folder cannot be served, with the remedy."""
    shown, above = (logs.escaped(shlex.quote(str(path))) for path in (folder, folder.parent))
    try:
        is_folder = stat.S_ISDIR(os.stat(folder).st_mode)
    except FileNotFoundError:
        return f"{shown} does not exist. To create it: mkdir -p {shown}"
    except OSError as error:
        return f"{shown}: {error.strerror}. Name another folder."
    if not is_folder:
        return f"{shown} is a file. Name its folder: {above}"
    if folder.samefile("/"):
        return "/ contains all files of this machine. Name the folder of the films."
    return None


folder_argument = click.argument("folder", required=False, type=FolderPath())


def check_has_folder(settings: Settings, folder: str | None) -> None:
    """Raise ConfigurationError if a folder is named, but the films are in MongoDB."""
    if folder is not None and settings.storage == "gridfs":
        raise ConfigurationError(
            "With SEEKABLE_STORAGE=gridfs, the films are in MongoDB. Omit the folder, or set "
            "SEEKABLE_STORAGE=filesystem."
        )


@dataclass(frozen=True)
class Output:
    """The standard output of one command."""

    as_json: bool = False
    quiet: bool = False
    common: Mapping[str, object] = field(default_factory=dict)
    """Fields of every JSON object."""

    def with_fields(self, **fields: object) -> "Output":
        return replace(self, common={**self.common, **fields})

    def inform(self, text: str, **fields: object) -> None:
        """Print what the command has done or counted. Prints nothing with --quiet."""
        if not self.quiet:
            self.write(text, **fields)

    def write(self, text: str, **fields: object) -> None:
        """Print a line or a JSON object, with --quiet too: a problem, or what the command was run for."""
        echo(to_json({**self.common, **fields}) if self.as_json else logs.escaped(text))


def echo(line: str) -> None:
    """Print a line on standard output. Raises ClickException if its disk is full."""
    try:
        click.echo(line)
    except BrokenPipeError:  # click ends the program without a message
        raise
    except OSError as error:
        raise click.ClickException(f"Standard output cannot be written: {error.strerror}.") from None


def to_json(value: object) -> str:
    """Return JSON in ASCII. Bytes that are not UTF-8 become escapes, and infinity becomes the text `inf`,
    because JSON has neither lone surrogates nor infinity."""
    return json.dumps(_representable(value), allow_nan=False)


def _representable(value: Any) -> Any:
    match value:
        case str():
            return value.encode(errors="backslashreplace").decode()
        case float() if not isfinite(value):
            return str(value)
        case dict():
            return {key: _representable(each) for key, each in value.items()}
        case list() | tuple():
            return [_representable(each) for each in value]
    return value


def output_options(quiet: str, *, json_help: str = "Print JSON for scripts.") -> Callable[[Command], Command]:
    """Add --json and --quiet to a command, which receives them as its argument `output`.

    `quiet` is the help text of --quiet.
    """

    def decorate(command: Command) -> Command:
        @click.option("--json", "as_json", is_flag=True, help=json_help)
        @click.option("-q", "--quiet", is_flag=True, help=quiet)
        @wraps(command)
        def with_output(*args: Any, as_json: bool, quiet: bool, **options: Any) -> None:
            command(*args, output=Output(as_json, quiet), **options)

        return with_output

    return decorate
