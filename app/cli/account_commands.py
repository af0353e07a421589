"""`seekable account`: manage accounts on the machine of the server."""

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import click
from pydantic import ByteSize, Field, TypeAdapter, ValidationError

from app import logs
from app.accounts.errors import BadCredentials, UnknownRecord
from app.accounts.models import (
    INVITE_LASTS,
    Account,
    Destination,
    check_email,
    new_account,
    new_invite,
    new_signing_key,
)
from app.accounts.passwords import MAX_LENGTH, Passwords
from app.accounts.store import AccountStore
from app.cli.groups import CommandGroup
from app.cli.options import FolderPath, Output, check_has_folder, echo, output_options
from app.database import library_location, open_accounts, open_stores
from app.database.open_library import is_read_only
from app.library.account_deletion import IN_PLACE, free_destination, usage_before_deletion
from app.server.listen import reachable
from app.settings import ConfigurationError, Settings, load, override, read
from app.storage.errors import ReadOnly
from app.storage.types import SHARED

PAGE_SIZE = 500
"""Accounts to read from the database at once."""


def _use_folder(context: click.Context, parameter: click.Parameter, folder: str | None) -> None:
    if folder is not None:
        override(files_dir=folder, access="accounts")
        check_has_folder(read(), folder)


_folder_option = click.option(
    "--folder",
    type=FolderPath(),
    metavar="FOLDER",
    expose_value=False,
    callback=_use_folder,
    help="The folder of `seekable serve FOLDER --access accounts`; by default that of the settings.",
)


def _for_scripts(command: Callable[..., None]) -> Callable[..., None]:
    """Add --json, --quiet and --folder to a command that changes accounts."""
    return _folder_option(output_options("Print nothing on success.")(command))


_SIZE = TypeAdapter[ByteSize](Annotated[ByteSize, Field(ge=0, lt=1 << 63)])


class Size(click.ParamType[int]):
    """A number of bytes, in the format of settings."""

    name = "size"

    def convert(self, value: object, param: click.Parameter | None, context: click.Context | None) -> int:
        try:
            return int(_SIZE.validate_python(value))
        except ValidationError:
            self.fail(f"{value!r} is not a size. Examples: 500MB, 10GiB.", param, context)


class SizeOrNone(Size):
    """A size, or `none`, which is converted to -1."""

    name = "size|none"

    def convert(self, value: object, param: click.Parameter | None, context: click.Context | None) -> int:
        return -1 if value in ("none", -1) else super().convert(value, param, context)


class EmailAddress(click.ParamType[str]):
    """The email address of an account, as it is stored."""

    name = "email"

    def convert(self, value: object, param: click.Parameter | None, context: click.Context | None) -> str:
        try:
            return check_email(str(value))
        except BadCredentials as error:
            self.fail(str(error), param, context)


_email = click.argument("email", type=EmailAddress())


@click.group(cls=CommandGroup)
def account() -> None:
    """Manage the accounts of SEEKABLE_ACCESS=accounts.

    A running server need not be stopped: changes take effect within seconds.
    """


@contextmanager
def _opened(
    *, create: bool = False, check: Callable[[Settings], None] | None = None
) -> Iterator[tuple[AccountStore, Settings]]:
    """Open the accounts of the settings. Runs the check before anything is created."""
    settings = load()
    if check is not None:
        check(settings)
    with open_accounts(settings, create=create) as store:
        yield store, settings


@contextmanager
def _changing(email: str, output: Output, sentence: str) -> Iterator[tuple[AccountStore, Account]]:
    """Open the accounts, yield the one with this email address, and then print what was done to it.

    Raises UnknownRecord if the account does not exist, or is being deleted.
    """
    with _opened() as (store, settings):
        found = _find(store, email)
        if found.leaving:
            raise UnknownRecord(
                f"{logs.escaped(email)} is being deleted. Wait until `seekable account list` omits it."
            )
        yield store, found
        changed = store.get(found.id) or found
        output.inform(f"{found.email} {sentence}", **_fields(changed, settings))


def _find(store: AccountStore, email: str) -> Account:
    found = store.by_email(email)
    if found is None:
        raise UnknownRecord(f"There is no account {logs.escaped(email)}. `seekable account list` prints all.")
    return found


@account.command()
@_email
@click.option("--admin", is_flag=True, help="Make it an administrator. The first account always is one.")
@click.option("--quota", type=Size(), help="Maximum size of its files, such as 10GiB.")
@_for_scripts
def add(output: Output, email: str, admin: bool, quota: int | None) -> None:
    """Create an account, even if sign-up is closed. Asks for the password, or reads it from standard
    input."""
    created = new_account(email, _hash_password(), is_admin=admin, quota=quota)
    with _opened(create=True) as (store, settings):
        created = store.add(created)
    role = ", as an administrator" if created.is_admin else ""
    output.inform(f"{created.email} can log in{role}.", **_fields(created, settings))
    if settings.access != "accounts":
        click.echo("Accounts have no effect until you set SEEKABLE_ACCESS=accounts.", err=True)


@account.command("list")
@_folder_option
@output_options("Print the email addresses only.", json_help="Print JSON for scripts, one object per line.")
def list_command(output: Output) -> None:
    """List all accounts, in columns separated by tabs."""
    with _opened() as (store, settings):
        if not (output.as_json or output.quiet):
            echo("email\tid\tstate\tquota\tcreated\tfiles")
        after = ""
        while page := store.list(after=after, limit=PAGE_SIZE):
            for listed in page:
                _print_listed(output, listed, settings)
            after = page[-1].email


def _print_listed(output: Output, listed: Account, settings: Settings) -> None:
    fields = _fields(listed, settings)
    if output.as_json:
        output.write("", **({"email": listed.email} if output.quiet else fields))
    elif output.quiet:
        echo(logs.escaped(listed.email))
    else:
        quota, created_at = _size(listed.quota), fields["created_at"]
        columns = (listed.email, listed.id, _state(listed), quota, created_at, fields["files"])
        echo("\t".join(map(logs.escaped, columns)))


def _fields(shown: Account, settings: Settings) -> dict[str, Any]:
    """Return the JSON fields of an account."""
    return {
        "email": shown.email,
        "id": shown.id,
        "is_admin": shown.is_admin,
        "disabled": shown.disabled,
        "leaving": shown.leaving,
        "quota": shown.quota,
        "created_at": shown.created_at.isoformat(),
        "files": library_location(settings, shown.library),
    }


@account.command()
@_email
@_for_scripts
def reset(output: Output, email: str) -> None:
    """Set a new password for an account. Revokes its logins, tokens and links."""
    with _changing(email, output, "has a new password. All its logins, tokens and links are revoked.") as (
        store,
        found,
    ):
        if not store.set_password(found.id, _hash_password(), version=found.version):
            raise BadCredentials("The password was changed in the meantime. Run the command again.")
        store.tokens.remove_all(found.id)
        store.links.remove_all(found.id)


@account.command()
@_email
@_for_scripts
def disable(output: Output, email: str) -> None:
    """Refuse logins to an account until it is enabled again. Keeps its files."""
    with _changing(email, output, "can no longer log in. Its files are kept.") as (store, found):
        store.set_disabled(found.id, True)


@account.command()
@_email
@_for_scripts
def enable(output: Output, email: str) -> None:
    """Allow logins to a disabled account again."""
    with _changing(email, output, "can log in again.") as (store, found):
        store.set_disabled(found.id, False)


@account.command()
@_email
@_for_scripts
def promote(output: Output, email: str) -> None:
    """Make an account an administrator, who may invite others."""
    with _changing(email, output, "is an administrator.") as (store, found):
        store.set_admin(found.id, True)


@account.command()
@_email
@_for_scripts
def demote(output: Output, email: str) -> None:
    """Make an administrator an ordinary account. The last one who can log in remains an administrator."""
    with _changing(email, output, "is an ordinary account.") as (store, found):
        store.set_admin(found.id, False)


@account.command()
@_email
@click.argument("size", type=SizeOrNone(), required=False)
@_for_scripts
def quota(output: Output, email: str, size: int | None) -> None:
    """Show or set the maximum size of the files of an account. With `none`, SEEKABLE_QUOTA applies."""
    if size is None:
        with _opened() as (store, settings):
            found = _find(store, email)
            output.write(_size(found.quota), **_fields(found, settings))
        return
    limit = None if size < 0 else size
    sentence = "has the quota of SEEKABLE_QUOTA." if limit is None else f"may have {_size(limit)} of files."
    with _changing(email, output, sentence) as (store, found):
        store.set_quota(found.id, limit)


@account.command()
@_email
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--keep-files", is_flag=True, help="Keep its files, in the folder that is printed.")
@click.option(
    "--to",
    metavar="EMAIL",
    type=EmailAddress(),
    help="With --keep-files: keep them in the library of this account.",
)
@_for_scripts
def remove(output: Output, email: str, yes: bool, keep_files: bool, to: str | None) -> None:
    """Delete an account and all its files, or keep the files.

    The account can no longer log in. The running server, or the next one, deletes or moves the files.
    """
    if to is not None and not keep_files:
        raise click.UsageError("--to needs --keep-files.")
    if to == email:
        raise click.UsageError("--to names the account that is to be deleted. Name another account.")
    if (output.as_json or output.quiet) and not yes:
        raise click.UsageError("--json and --quiet need --yes, because they hide what would be deleted.")
    with _opened() as (store, settings):
        if is_read_only(settings):
            raise ReadOnly
        leaver = _find(store, email)
        receiver = _find(store, to) if to is not None else None
        _check_destination(settings, receiver, keep_files)
        deletion = asyncio.run(_plan_deletion(settings, leaver, receiver, keep_files))
        if not output.as_json:
            for line in deletion.lines(settings, leaver, receiver):
                output.inform(line)
        if not yes:
            _confirm(leaver)
        store.mark_leaving(leaver.id, deletion.keep)
        output.inform(
            f"{leaver.email} can no longer log in. The running server, or the next one, deletes the account.",
            email=leaver.email,
            id=leaver.id,
            files=deletion.files,
            bytes=deletion.size,
            kept_in=deletion.kept_in(settings),
        )


@dataclass(frozen=True)
class _Deletion:
    files: int
    size: int
    keep: Destination | None
    kept_before: int
    """Bytes in the library of the destination."""

    def kept_in(self, settings: Settings) -> str | None:
        """Return the folder that the files stay in or move to. Returns None if they are deleted."""
        if self.keep is None:
            return None
        folder = "" if self.keep == IN_PLACE else f"/{self.keep.folder}"
        return library_location(settings, self.keep.library) + folder

    def lines(self, settings: Settings, leaver: Account, receiver: Account | None) -> Iterator[str]:
        size = ByteSize(self.size).human_readable()
        place = library_location(settings, leaver.library)
        files = "1 file" if self.files == 1 else f"{self.files:,} files"
        yield f"{leaver.email} has {files} ({self.size:,} bytes, {size}) in {place}"
        if self.keep is None:
            yield "All of them are deleted for good, including those that other programs added."
        elif self.keep == IN_PLACE:
            yield "They stay there."
        else:
            whose = f", the library of {receiver.email}" if receiver else ""
            yield f"They are kept, in {self.kept_in(settings)}{whose}"
        if receiver is not None:
            quota = settings.quota if receiver.quota is None else receiver.quota
            if quota is not None and self.kept_before + self.size > quota:
                yield f"{receiver.email} will then exceed its quota, and cannot upload for now."


def _check_destination(settings: Settings, receiver: Account | None, keep_files: bool) -> None:
    """Raise ConfigurationError if the files cannot be kept there."""
    if receiver is not None and receiver.leaving:
        raise ConfigurationError("The account of --to is being deleted, too. Name another account.")
    if keep_files and receiver is None and settings.storage == "gridfs":
        raise ConfigurationError(
            "With SEEKABLE_STORAGE=gridfs, name the account whose library receives the files: --to EMAIL."
        )


async def _plan_deletion(
    settings: Settings, leaver: Account, receiver: Account | None, keep_files: bool
) -> _Deletion:
    async with open_stores(settings, serving=False) as stores:
        storage = stores.storage
        usage = await usage_before_deletion(storage, leaver.library)
        keep = None
        if keep_files:
            library = SHARED if receiver is None else receiver.library
            earlier = leaver.keep if leaver.leaving else None
            if earlier is not None and earlier.library == library:
                keep = earlier
            elif library == leaver.library:
                keep = IN_PLACE
            else:
                keep = await free_destination(storage, library, leaver.email)
        before = (await storage.usage(keep.library)).size if keep else 0
        return _Deletion(usage.files, usage.size, keep, before)


def _confirm(leaver: Account) -> None:
    """Ask for the address of the account. Raises ClickException if another text is entered."""
    try:
        typed = click.prompt("Type the address of the account to delete it", default="", show_default=False)
    except click.Abort:  # the end of the input, or Ctrl-C
        typed = ""
    if typed.strip().lower() != leaver.email:
        raise click.ClickException("Nothing was deleted: the address does not match. Scripts use --yes.")


@account.command()
@_for_scripts
def invite(output: Output) -> None:
    """Print a link with which one person can sign up within seven days."""
    with _opened(create=True, check=_check_sign_up) as (store, settings):
        created, secret = new_invite(INVITE_LASTS)
        store.invites.add(created)
        default = f"http://{reachable(settings.host, settings.port)}"  # before the first start of a server
        base = settings.base_url or store.announced() or default
        url = f"{base}/sign-up?invite={secret}"
        output.write(url, url=url, expires_at=created.expires_at.isoformat())
    if not (output.quiet or output.as_json):  # not on standard output: scripts read the link there
        click.echo(f"One person can sign up there until {created.expires_at:%Y-%m-%d %H:%M} UTC.", err=True)


def _check_sign_up(settings: Settings) -> None:
    """Raise ConfigurationError if an invite could not be used."""
    if settings.access != "accounts":
        raise ConfigurationError(
            "Accounts are off. Set SEEKABLE_ACCESS=accounts, both for the server and for this command."
        )
    if settings.sign_up == "closed":
        raise ConfigurationError(
            "SEEKABLE_SIGN_UP=closed refuses sign-ups, even with an invite. Set SEEKABLE_SIGN_UP=invite."
        )


@account.command("rotate-key")
@_for_scripts
def rotate_key(output: Output) -> None:
    """Sign links with a new key. Links signed with the previous key stay valid; older links expire."""
    created = new_signing_key()
    with _opened() as (store, _):
        last = [key.id for key in store.signing_keys.list()[:1]]
        store.signing_keys.rotate(created, keep=last)
    sentence = "Links are signed with a new key. Those of the previous key stay valid."
    output.inform(sentence, id=created.id, created_at=created.created_at.isoformat())


def _hash_password() -> str:
    """Hash a password from a prompt or standard input: other users can see a command's options."""
    if sys.stdin.isatty():
        password = click.prompt("Password", hide_input=True, confirmation_prompt="Repeat the password")
    else:
        line = sys.stdin.buffer.readline(4 * MAX_LENGTH + 3)
        try:
            password = line.decode().rstrip("\r\n")
        except UnicodeDecodeError:
            raise BadCredentials("The password is not in UTF-8.") from None
    return Passwords().hash(password)


def _state(listed: Account) -> str:
    states = {"administrator": listed.is_admin, "disabled": listed.disabled, "leaving": listed.leaving}
    return ", ".join(state for state, applies in states.items() if applies) or "-"


def _size(quota: int | None) -> str:
    return "-" if quota is None else ByteSize(quota).human_readable()
