"""The `seekable` command, and its subcommand `migrate`."""

import os
import sys
from typing import Any

import click

from app import logs
from app.accounts.errors import AccountError
from app.cli.account_commands import account
from app.cli.config_command import config_command
from app.cli.doctor import doctor
from app.cli.library_commands import copy_command, scan, verify
from app.cli.serve_command import serve_command
from app.database import prepare_database
from app.server.listen import ListenError
from app.settings import ConfigurationError, load
from app.storage.errors import StorageError


def ensure_utf8() -> None:
    """Restart this process in Python's UTF-8 mode if its locale has another encoding.

    Otherwise names on the disk would depend on the locale of each start: one locale could not read `ü` of
    another, and Latin-1 lacks most characters. Python enables the mode only for the locales C and POSIX (PEP
    540). Raises ConfigurationError if the mode cannot be enabled.
    """
    if sys.getfilesystemencoding() == "utf-8":
        return
    if os.environ.get("PYTHONUTF8") == "1":  # Python ignores it with -E and -I
        raise ConfigurationError(
            f"The encoding of file names is {sys.getfilesystemencoding()}, not UTF-8. Start Python with -X "
            f"utf8."
        )
    os.environ["PYTHONUTF8"] = "1"
    os.execv(sys.executable, sys.orig_argv)


class _Commands(click.Group):
    """Commands whose expected errors are one line of output, with the exit status 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (AccountError, ConfigurationError, ListenError, StorageError) as error:
            raise click.ClickException(logs.escaped(str(error))) from None


@click.group(cls=_Commands)
@click.version_option(package_name="seekable")
def main() -> None:
    """A small, fast, self-hosted media server. Settings are read from SEEKABLE_* and from .env."""
    ensure_utf8()
    logs.configure()


main.add_command(serve_command)
main.add_command(account)
main.add_command(doctor)
main.add_command(config_command)
main.add_command(scan)
main.add_command(verify)
main.add_command(copy_command)


@main.command()
def migrate() -> None:
    """Migrate the database to the newest schema."""
    prepare_database(load())
