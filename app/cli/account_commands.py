"""`seekable account`: manage accounts on the machine of the server."""

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

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
from app.database import library_location, open_accounts, open_stores
from app.database.open_library import is_read_only
from app.library.account_deletion import IN_PLACE, free_destination, usage_before_deletion
from app.server.listen import reachable
from app.settings import ConfigurationError, Settings, load
from app.storage.errors import ReadOnly
from app.storage.types import SHARED

PAGE_SIZE = 500
"""Accounts to read from the database at once."""

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


@click.group()
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
def _account(email: str) -> Iterator[tuple[AccountStore, Account]]:
    """Open the accounts, and find the one with this email address."""
    with _opened() as (store, _):
        yield store, _find(store, email)


def _find(store: AccountStore, email: str) -> Account:
    found = store.by_email(check_email(email))
    if found is None:
        raise UnknownRecord("There is no account with this email address.")
    return found


@account.command()
@click.argument("email")
@click.option("--admin", is_flag=True, help="Make it an administrator. The first account always is one.")
@click.option("--quota", type=Size(), help="Maximum size of its files, such as 10GiB.")
def add(email: str, admin: bool, quota: int | None) -> None:
    """Create an account, even if sign-up is closed. Asks for the password, or reads it from standard
    input."""
    created = new_account(check_email(email), _hash_password(), is_admin=admin, quota=quota)
    with _opened(create=True) as (store, settings):
        created = store.add(created)
    role = ", as an administrator" if created.is_admin else ""
    click.echo(f"{logs.escaped(created.email)} can log in{role}.")
    if settings.access != "accounts":
        click.echo("Accounts have no effect until you set SEEKABLE_ACCESS=accounts.", err=True)


@account.command("list")
def list_command() -> None:
    """List all accounts, in columns separated by tabs."""
    with _opened() as (store, settings):
        click.echo("email\tid\tstate\tquota\tcreated\tfiles")
        after = ""
        while page := store.list(after=after, limit=PAGE_SIZE):
            for listed in page:
                place = library_location(settings, listed.library)
                created_at = listed.created_at.isoformat()
                columns = (listed.email, listed.id, _state(listed), _size(listed.quota), created_at, place)
                click.echo("\t".join(map(logs.escaped, columns)))
            after = page[-1].email


@account.command()
@click.argument("email")
def reset(email: str) -> None:
    """Set a new password for an account. Revokes its logins, tokens and links."""
    with _account(email) as (store, found):
        if not store.set_password(found.id, _hash_password(), version=found.version):
            raise BadCredentials("The password was changed in the meantime. Run the command again.")
        store.tokens.remove_all(found.id)
        store.links.remove_all(found.id)


@account.command()
@click.argument("email")
def disable(email: str) -> None:
    """Refuse logins to an account until it is enabled again. Keeps its files."""
    with _account(email) as (store, found):
        store.set_disabled(found.id, True)


@account.command()
@click.argument("email")
def enable(email: str) -> None:
    """Allow logins to a disabled account again."""
    with _account(email) as (store, found):
        store.set_disabled(found.id, False)


@account.command()
@click.argument("email")
def promote(email: str) -> None:
    """Make an account an administrator, who may invite others."""
    with _account(email) as (store, found):
        store.set_admin(found.id, True)


@account.command()
@click.argument("email")
def demote(email: str) -> None:
    """Make an administrator an ordinary account. The last one who can log in remains an administrator."""
    with _account(email) as (store, found):
        store.set_admin(found.id, False)


@account.command()
@click.argument("email")
@click.argument("size", type=SizeOrNone(), required=False)
def quota(email: str, size: int | None) -> None:
    """Show or set the maximum size of the files of an account. With `none`, SEEKABLE_QUOTA applies."""
    with _account(email) as (store, found):
        if size is None:
            click.echo(_size(found.quota))
        else:
            store.set_quota(found.id, None if size < 0 else size)


@account.command()
@click.argument("email")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--keep-files", is_flag=True, help="Keep its files, in the folder that is printed.")
@click.option("--to", metavar="EMAIL", help="With --keep-files: keep them in the library of this account.")
def remove(email: str, yes: bool, keep_files: bool, to: str | None) -> None:
    """Delete an account and all its files, or keep the files.

    The account can no longer log in. The running server, or the next one, deletes or moves the files.
    """
    if to is not None and not keep_files:
        raise click.UsageError("--to needs --keep-files.")
    with _opened() as (store, settings):
        if is_read_only(settings):
            raise ReadOnly
        leaver = _find(store, email)
        receiver = _find(store, to) if to is not None else None
        _check_destination(settings, leaver, receiver, keep_files)
        deletion = asyncio.run(_plan_deletion(settings, leaver, receiver, keep_files))
        for line in deletion.lines(settings, leaver, receiver):
            click.echo(logs.escaped(line))
        if not yes:
            _confirm(leaver)
        store.mark_leaving(leaver.id, deletion.keep)
        click.echo(f"{logs.escaped(leaver.email)} is deleted.")


@dataclass(frozen=True)
class _Deletion:
    files: int
    size: int
    keep: Destination | None
    kept_before: int
    """Bytes in the library of the destination."""

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
            folder = f"{library_location(settings, self.keep.library)}/{self.keep.folder}"
            whose = f", the library of {receiver.email}" if receiver else ""
            yield f"They are kept, in {folder}{whose}"
        if receiver is not None:
            quota = settings.quota if receiver.quota is None else receiver.quota
            if quota is not None and self.kept_before + self.size > quota:
                yield f"{receiver.email} will then exceed its quota, and cannot upload for now."


def _check_destination(
    settings: Settings, leaver: Account, receiver: Account | None, keep_files: bool
) -> None:
    """Raise ConfigurationError if the files cannot be kept there."""
    if receiver is not None and receiver.id == leaver.id:
        raise ConfigurationError("--to names the account that is to be deleted. Name another account.")
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
def invite() -> None:
    """Print a link with which one person can sign up within seven days."""
    with _opened(create=True, check=_check_sign_up) as (store, settings):
        created, secret = new_invite(INVITE_LASTS)
        store.invites.add(created)
        default = f"http://{reachable(settings.host, settings.port)}"  # before the first start of a server
        base = settings.base_url or store.announced() or default
        click.echo(f"{base}/sign-up?invite={secret}")


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
def rotate_key() -> None:
    """Sign links with a new key. Links signed with the previous key stay valid; older links expire."""
    with _opened() as (store, _):
        last = [key.id for key in store.signing_keys.list()[:1]]
        store.signing_keys.rotate(new_signing_key(), keep=last)


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
