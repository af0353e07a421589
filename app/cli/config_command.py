"""`seekable config`: the settings that apply, and the source of each."""

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import unquote

import click
from pydantic import ByteSize

from app.cli.options import Output, folder_argument, output_options
from app.settings import (
    PREFIX,
    TARGET_PREFIX,
    EnvFile,
    Settings,
    env_file,
    nearest_settings,
    override,
    read,
    set_by_environment,
)

MASK = "***"

_WIDTH = 48
"""Columns of a setting, beside its source; a longer setting moves its source to the right."""

# The drivers accept @ in a user's name, and any character in a password. Paths of files and pages may have @.
_USER = re.compile(r"^(?!sqlite|http)([a-z][a-z0-9+.-]*://)(.*)@", re.DOTALL | re.IGNORECASE)
_PARAMETER_NAME = re.compile(r"(?:^|[?;])([^=?;]*)=")
_SECRETS = re.compile("pass|secret|token|key|authmechanismproperties", re.IGNORECASE)
_UNITS = {"GiB": 1 << 30, "MiB": 1 << 20, "KiB": 1 << 10}


@dataclass(frozen=True)
class Setting:
    """A setting that applies."""

    name: str
    value: Any
    """A number, a text, a flag, a list of texts, or None; without passwords."""
    text: str | None
    """The value as an environment variable has it; None if the setting has no value."""
    source: str
    """`default`, `environment`, `command line`, or the path of `.env`."""


def mask(text: str) -> str:
    """Return a text without the passwords of a URL: the one of its user, and those in its parameters."""
    return "&".join(map(_mask_parameters, _USER.sub(_mask_user, text, count=1).split("&")))


def _mask_user(found: re.Match[str]) -> str:
    """Mask the password of a user, or both if the name may be a part of an unescaped password."""
    name, colon, _ = found[2].partition(":")
    if re.search("[/?#&;=]", name):
        return f"{found[1]}{MASK}@"
    return f"{found[1]}{name}:{MASK}@" if colon else found[0]


def _mask_parameters(text: str) -> str:
    """Mask the text after the first name of a secret; MongoDB also separates parameters by semicolons."""
    for name in _PARAMETER_NAME.finditer(text):
        if _SECRETS.search(unquote(name[1])):
            return text[: name.end()] + MASK
    return text


def effective_settings(found: EnvFile) -> Iterator[Setting]:
    """Yield all settings of this process, then those of `seekable copy` that are set.

    Raises ConfigurationError.
    """
    yield from _settings(read(), PREFIX, found)
    target = read(TARGET_PREFIX)
    yield from (setting for setting in _settings(target, TARGET_PREFIX, found) if setting.source != "default")


def _settings(settings: Settings, prefix: str, found: EnvFile) -> Iterator[Setting]:
    in_environment = set_by_environment(prefix)
    values = settings.model_dump(mode="json")
    for name in Settings.model_fields:
        source = "default"
        if name in in_environment:
            source = "environment"
        elif name in settings.model_fields_set:
            source = str(found.path)
        value = mask(values[name]) if isinstance(values[name], str) else values[name]
        text = _text(mask(value) if isinstance(value, str) else getattr(settings, name))
        yield Setting(f"{prefix}{name.upper()}", value, text, source)


def _text(value: object) -> str | None:
    match value:
        case None:
            return None
        case bool():
            return str(value).lower()
        case tuple():
            return ",".join(map(str, value))
        case ByteSize():
            unit = next((unit for unit, size in _UNITS.items() if value and value % size == 0), None)
            return f"{value // _UNITS[unit]}{unit}" if unit else f"{int(value)}"
    return str(value)


@click.command("config")
@folder_argument
@output_options(
    "Print only settings that differ from their defaults.", json_help="Print one JSON object for scripts."
)
def config_command(output: Output, folder: str | None) -> None:
    """Print the settings that apply, and the source of each. Passwords are masked.

    An environment variable takes precedence over .env. The options and the FOLDER of `seekable serve` take
    precedence over both; of these, only FOLDER can be given here. Unknown SEEKABLE_* names are listed with
    the nearest setting; the exit status is then 1.

    With --json, prints an object with env_file, settings (each with name, value and source) and unknown
    (each with name and nearest).
    """
    override(files_dir=folder)
    found = env_file()
    settings = [*effective_settings(found)]
    if folder is not None:
        files_dir = f"{PREFIX}FILES_DIR"
        settings = [replace(one, source="command line") if one.name == files_dir else one for one in settings]
    unknown = nearest_settings(found)
    if output.quiet:
        settings = [setting for setting in settings if setting.source != "default"]
    if output.as_json:
        output.write("", **_fields(found, settings, unknown))
    else:
        for setting in settings:
            line = f"{setting.name} is not set" if setting.text is None else f"{setting.name}={setting.text}"
            output.write(f"{line:{_WIDTH}} # {setting.source}")
        for line in _problems(found, unknown):
            click.echo(line, err=True)
    if unknown:
        sys.exit(1)


def _fields(found: EnvFile, settings: list[Setting], unknown: dict[str, str | None]) -> dict[str, object]:
    """Return the JSON fields."""
    return {
        "env_file": found.path and str(found.path),
        "settings": [{"name": one.name, "value": one.value, "source": one.source} for one in settings],
        "unknown": [{"name": name, "nearest": nearest} for name, nearest in unknown.items()],
    }


def _problems(found: EnvFile, unknown: dict[str, str | None]) -> Iterator[str]:
    if found.ignored:
        yield found.ignored
    for name, nearest in unknown.items():
        hint = f" Did you mean {nearest}?" if nearest else ""
        yield f"There is no setting {name}.{hint}"
