"""Output of commands for people, or with --json for scripts; with --quiet only problems.

Standard output receives nothing else: progress, questions and log records go to standard error.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import wraps
from typing import Any

import click

from app import logs

Command = Callable[..., None]


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
        click.echo(to_json({**self.common, **fields}) if self.as_json else logs.escaped(text))


def to_json(value: object) -> str:
    """Return JSON in ASCII. Bytes that are not UTF-8 become escapes, because lone surrogates are no JSON."""
    return json.dumps(_without_surrogates(value))


def _without_surrogates(value: Any) -> Any:
    match value:
        case str():
            return value.encode(errors="backslashreplace").decode()
        case dict():
            return {key: _without_surrogates(each) for key, each in value.items()}
        case list() | tuple():
            return [_without_surrogates(each) for each in value]
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
