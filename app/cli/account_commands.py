"""`seekable account`: looking after the accounts from where the server runs."""

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

import click
from pydantic import ByteSize, Field, TypeAdapter, ValidationError

from app import logs
from app.accounts.errors import BadCredentials, UnknownAccount
from app.accounts.factories import INVITE_LASTS, new_account, new_invite, new_key
from app.accounts.models import Account, Destination, check_email
from app.accounts.passwords import MAX_LENGTH, Passwords
from app.accounts.store import AccountStore
from app.cli.failures import in_a_sentence
from app.database import is_read_only, open_accounts, open_database, place_of
from app.library.account_deletion import IN_PLACE, free_destination, usage_before_deletion
from app.server.listen import reachable
from app.settings import ConfigurationError, Settings, load
from app.storage.errors import ReadOnly
from app.storage.types import SHARED

_PAGE = 500

_SIZE = TypeAdapter[ByteSize](Annotated[ByteSize, Field(ge=0, lt=1 << 63)])


class Size(click.ParamType[int]):
    """Bytes, as settings take them."""

    name = "size"

    def convert(self, value: object, param: click.Parameter | None, context: click.Context | None) -> int:
        try:
            return int(_SIZE.validate_python(value))
        except ValidationError:
            self.fail(f"{value!r} is no size like 500MB or 10GiB.", param, context)


class SizeOrNone(Size):
    """The same, or `none`, which is -1."""

    name = "size|none"

    def convert(self, value: object, param: click.Parameter | None, context: click.Context | None) -> int:
        return -1 if value in ("none", -1) else super().convert(value, param, context)


@click.group()
def account() -> None:
    """Look after the accounts that SEEKABLE_ACCESS=accounts lets in.

    A server that runs need not be stopped: it sees within seconds what has changed.
    """


@contextmanager
def _opened(
    *, create: bool = False, check: Callable[[Settings], None] | None = None
) -> Iterator[tuple[AccountStore, Settings]]:
    """The accounts of the settings, which are checked before anything is made."""
    with in_a_sentence():
        settings = load()
        if check is not None:
            check(settings)
        with open_accounts(settings, create=create) as store:
            yield store, settings


@contextmanager
def _of(email: str) -> Iterator[tuple[AccountStore, Account]]:
    """The account with this email address."""
    with _opened() as (store, _):
        yield store, _found(store, email)


def _found(store: AccountStore, email: str) -> Account:
    found = store.account_of(check_email(email))
    if found is None:
        raise UnknownAccount("There is no account with this email address.")
    return found


@account.command()
@click.argument("email")
@click.option("--admin", is_flag=True, help="It may look after the accounts. The first one may anyway.")
@click.option("--quota", type=Size(), help="Bytes that its files may have, such as 10GiB.")
def add(email: str, admin: bool, quota: int | None) -> None:
    """Make an account, whoever else may sign up. The password is asked for, or read from standard input."""
    with in_a_sentence():
        made = new_account(check_email(email), _hash(), is_admin=admin, quota=quota)
    with _opened(create=True) as (store, settings):
        made = store.add(made)
    click.echo(f"{logs.escaped(made.email)} can log in{', as an administrator' if made.is_admin else ''}.")
    if settings.access != "accounts":
        click.echo("Accounts count with the setting SEEKABLE_ACCESS=accounts.", err=True)


@account.command("list")
def list_command() -> None:
    """Name all accounts, in columns with tabs between them."""
    with _opened() as (store, settings):
        click.echo("email\tid\tstate\tquota\tcreated\tfiles")
        after = ""
        while page := store.accounts(after=after, limit=_PAGE):
            for one in page:
                place = place_of(settings, one.library)
                columns = (
                    one.email,
                    one.id,
                    _state(one),
                    _size(one.quota),
                    one.created_at.isoformat(),
                    place,
                )
                click.echo("\t".join(map(logs.escaped, columns)))
            after = page[-1].email


@account.command()
@click.argument("email")
def reset(email: str) -> None:
    """Give an account another password. Its logins, tokens and links are over."""
    with _of(email) as (store, found):
        if not store.set_password(found.id, _hash(), version=found.version):
            raise BadCredentials("The password was changed meanwhile; run the command again.")
        store.remove_tokens(found.id)
        for link in store.links(found.id):
            store.remove_link(found.id, link.id)


@account.command()
@click.argument("email")
def disable(email: str) -> None:
    """Let nobody log in to an account until it is enabled. Its files stay."""
    with _of(email) as (store, found):
        store.set_disabled(found.id, True)


@account.command()
@click.argument("email")
def enable(email: str) -> None:
    """Undo `disable`."""
    with _of(email) as (store, found):
        store.set_disabled(found.id, False)


@account.command()
@click.argument("email")
def promote(email: str) -> None:
    """Make an account an administrator, which may invite others."""
    with _of(email) as (store, found):
        store.set_admin(found.id, True)


@account.command()
@click.argument("email")
def demote(email: str) -> None:
    """Undo `promote`. The last administrator that can log in stays one."""
    with _of(email) as (store, found):
        store.set_admin(found.id, False)


@account.command()
@click.argument("email")
@click.argument("size", type=SizeOrNone(), required=False)
def quota(email: str, size: int | None) -> None:
    """Show or set the bytes that the files of an account may have; `none` leaves that to SEEKABLE_QUOTA."""
    with _of(email) as (store, found):
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

    Nobody can log in to it from then on. The server that runs, or is started next, deletes or moves the
    files.
    """
    if to is not None and not keep_files:
        raise click.UsageError("--to goes with --keep-files.")
    with _opened() as (store, settings):
        if is_read_only(settings):
            raise ReadOnly
        leaver = _found(store, email)
        receiver = _found(store, to) if to is not None else None
        _check_keeping(settings, leaver, receiver, keep_files)
        seen = asyncio.run(_looked_at(settings, leaver, receiver, keep_files))
        for line in seen.lines(settings, leaver, receiver):
            click.echo(logs.escaped(line))
        if not yes:
            _confirm(leaver)
        store.leave(leaver.id, seen.keep)
        click.echo(f"{logs.escaped(leaver.email)} is deleted.")


@dataclass(frozen=True)
class _Seen:
    """What a deletion is about."""

    files: int
    size: int
    keep: Destination | None
    kept_before: int
    """Bytes that are in the library of the destination."""

    def lines(self, settings: Settings, leaver: Account, receiver: Account | None) -> Iterator[str]:
        """What a person has to know before."""
        size = ByteSize(self.size).human_readable()
        place = place_of(settings, leaver.library)
        yield f"{leaver.email} has {self.files:,} files ({self.size:,} bytes, {size}) in {place}"
        if self.keep is None:
            yield "All of them are deleted for good, those too that were put there by hand."
        elif self.keep == IN_PLACE:
            yield "They stay there."
        else:
            whose = f", the library of {receiver.email}" if receiver else ""
            yield f"They are kept, in {place_of(settings, self.keep.library)}/{self.keep.folder}{whose}"
        if receiver is not None:
            quota = settings.quota if receiver.quota is None else receiver.quota
            if quota is not None and self.kept_before + self.size > quota:
                yield f"{receiver.email} has more than its quota then: it can upload nothing for now."


def _check_keeping(settings: Settings, leaver: Account, receiver: Account | None, keep_files: bool) -> None:
    """Raise ConfigurationError if the files cannot be kept so."""
    if receiver is not None and receiver.id == leaver.id:
        raise ConfigurationError("The files cannot go to the account that is deleted.")
    if receiver is not None and receiver.leaving:
        raise ConfigurationError("The account that is to get the files is being deleted itself.")
    if keep_files and receiver is None and settings.storage == "gridfs":
        raise ConfigurationError(
            "With SEEKABLE_STORAGE=gridfs, files are kept in a library: say in whose, with --to EMAIL."
        )


async def _looked_at(
    settings: Settings, leaver: Account, receiver: Account | None, keep_files: bool
) -> _Seen:
    async with open_database(settings, serving=False) as stores:
        storage = stores.storage
        usage = await usage_before_deletion(storage, leaver.library)
        keep = None
        if keep_files:
            library = SHARED if receiver is None else receiver.library
            begun = leaver.keep if leaver.leaving else None
            if begun is not None and begun.library == library:
                keep = begun
            elif library == leaver.library:
                keep = IN_PLACE
            else:
                keep = await free_destination(storage, library, leaver.email)
        before = (await storage.usage(keep.library)).size if keep else 0
        return _Seen(usage.files, usage.size, keep, before)


def _confirm(leaver: Account) -> None:
    """Raise ClickException unless the address is typed."""
    try:
        typed = click.prompt("Type the address of the account to delete it", default="", show_default=False)
    except click.Abort:  # the end of the input, or Ctrl-C
        typed = ""
    if typed.strip().lower() != leaver.email:
        raise click.ClickException("Nothing was deleted: the address was not typed. Scripts say --yes.")


@account.command()
def invite() -> None:
    """Print an address where one person can sign up, within seven days."""
    with _opened(create=True, check=_check_sign_up) as (store, settings):
        made, secret = new_invite(INVITE_LASTS)
        store.add_invite(made)
        here = reachable(settings.host, settings.port)  # unless a server was started at another address
        base = settings.base_url or store.announced() or f"http://{here}"
        click.echo(f"{base}/sign-up?invite={secret}")


def _check_sign_up(settings: Settings) -> None:
    """Raise ConfigurationError if an invite would lead nowhere."""
    if settings.access != "accounts":
        raise ConfigurationError(
            "Accounts are off. Set SEEKABLE_ACCESS=accounts, for the server as well as for this command."
        )
    if settings.sign_up == "closed":
        raise ConfigurationError("SEEKABLE_SIGN_UP=closed lets nobody sign up, not even with an invite.")


@account.command("rotate-key")
def rotate_key() -> None:
    """Sign links with a new key. Those signed with the last one go on working; older ones do not."""
    with _opened() as (store, _):
        last = [key.id for key in store.signing_keys()[:1]]
        store.add_signing_key(new_key(), keep=last)


def _hash() -> str:
    """Of a password that is asked for, or is one line of standard input: others see the options of a
    command."""
    if sys.stdin.isatty():
        password = click.prompt("Password", hide_input=True, confirmation_prompt="Once more")
    else:
        line = sys.stdin.buffer.readline(4 * MAX_LENGTH + 3)
        try:
            password = line.decode().rstrip("\r\n")
        except UnicodeDecodeError:
            raise BadCredentials("The password is not in UTF-8.") from None
    return Passwords().hash(password)


def _state(one: Account) -> str:
    words = {"administrator": one.is_admin, "disabled": one.disabled, "leaving": one.leaving}
    return ", ".join(word for word, is_so in words.items() if is_so) or "-"


def _size(quota: int | None) -> str:
    return "-" if quota is None else ByteSize(quota).human_readable()
