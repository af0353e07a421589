"""The `seekable` command, and its subcommand `migrate`."""

import os
import shlex
import sys
from typing import Any

import click

from app import logs
from app.accounts.errors import AccountError
from app.cli.account_commands import account
from app.cli.config_command import config_command
from app.cli.doctor import doctor
from app.cli.groups import CommandGroup
from app.cli.library_commands import copy_command, scan, verify
from app.cli.options import Output, check_has_folder, folder_argument, output_options
from app.cli.serve_command import serve_command
from app.database import prepare_database
from app.server.listen import ListenError
from app.settings import ConfigurationError, load, override
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


def open_standard_streams() -> None:
    """Open the null device in place of standard streams that are closed.

    Otherwise a database or a socket would take the number of one, and receive the output of a library.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):  # in the order of their numbers
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - until the exit


class _WrongSettings(click.ClickException):
    """Wrong settings, or a combination of them with options: the exit status is that of wrong arguments."""

    exit_code = click.UsageError.exit_code


class _Program(CommandGroup):
    """The outermost group: it turns expected errors into one line, and an exit status."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ConfigurationError as error:
            raise _WrongSettings(logs.escaped(str(error))) from None
        except (AccountError, ListenError, StorageError) as error:
            raise click.ClickException(logs.escaped(str(error))) from None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command. Raises UsageError, which names `serve` if the first argument is a folder."""
        if args[0] not in self.commands and os.path.isdir(os.path.expanduser(args[0])):
            folder = logs.escaped(shlex.quote(os.path.expanduser(args[0])))
            raise click.UsageError(
                f"{folder} is a folder. To serve it: {ctx.command_path} serve {folder}", ctx
            )
        return super().resolve_command(ctx, args)


@click.group(
    cls=_Program,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="To serve the films in a folder: seekable serve ~/Films",
)
@click.version_option(package_name="seekable")
def main() -> None:
    """A small, fast, self-hosted media server. Settings are read from SEEKABLE_* and from .env."""
    open_standard_streams()
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
@folder_argument
@output_options("Print nothing on success.")
def migrate(output: Output, folder: str | None) -> None:
    """Migrate the database of FOLDER to the newest schema. Creates the library if necessary.

    Without FOLDER, migrates the database of the settings.
    """
    override(files_dir=folder)
    settings = load()
    check_has_folder(settings, folder)
    prepare_database(settings)
    output.inform(f"The database of {settings.location} is at the newest schema.", library=settings.location)
