"""`seekable account`: looking after the accounts from where the server runs."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import click
from pydantic import ByteSize, Field, TypeAdapter, ValidationError

from app import logs
from app.accounts.emails import check_email
from app.accounts.errors import BadCredentials, UnknownAccount
from app.accounts.making import INVITE_LASTS, new_account, new_invite, new_key
from app.accounts.models import Account
from app.accounts.passwords import MAX_LENGTH, Passwords
from app.accounts.store import AccountStore
from app.cli.sentences import in_a_sentence
from app.database import is_read_only, open_accounts, place_of
from app.settings import ConfigurationError, Settings, load
from app.storage.errors import ReadOnly

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
def _opened(*, create: bool = False) -> Iterator[tuple[AccountStore, Settings]]:
    with in_a_sentence():
        settings = load()
        with open_accounts(settings, create=create) as store:
            yield store, settings


@contextmanager
def _of(email: str, *, removes_files: bool = False) -> Iterator[tuple[AccountStore, Account]]:
    """The account with this email address. Raises ReadOnly if files are to be removed and none can be."""
    with _opened() as (store, settings):
        if removes_files and is_read_only(settings):
            raise ReadOnly
        found = store.account_of(check_email(email))
        if found is None:
            raise UnknownAccount("There is no account with this email address.")
        yield store, found


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
def remove(email: str) -> None:
    """Delete an account and all its files. Nobody can log in any more; the server removes the files."""
    with _of(email, removes_files=True) as (store, found):
        store.leave(found.id)


@account.command()
def invite() -> None:
    """Print an address where one person can sign up, within seven days."""
    with _opened(create=True) as (store, settings):
        if settings.sign_up == "closed":
            raise ConfigurationError("SEEKABLE_SIGN_UP=closed lets nobody sign up, not even with an invite.")
        made, secret = new_invite(INVITE_LASTS)
        store.add_invite(made)
        base = settings.base_url or f"http://127.0.0.1:{settings.port}"
        click.echo(f"{base}/sign-up?invite={secret}")


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
