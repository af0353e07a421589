"""Accounts on MongoDB: their credentials, and the state after a crash between two writes."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import timedelta

import pytest

from app.accounts.errors import LastAdministrator, SignUpRefused
from app.accounts.store import AccountStore
from app.database import open_accounts, prepare_database
from app.database.gridfs.accounts import MongoAccounts
from app.database.gridfs.connection import Users
from app.database.gridfs.opening import connect_users
from app.settings import Settings
from app.storage.errors import StorageUnavailable
from tests.contracts.test_accounts import make_account, make_invite, make_link, make_session, make_token
from tests.support.mongo import Mongod, mongod


@pytest.fixture(scope="module")
def node() -> Iterator[Mongod]:
    with mongod() as node:
        yield node


@pytest.fixture
def store(node: Mongod) -> Iterator[AccountStore]:
    settings = Settings(_env_file=None, storage="gridfs", mongodb_url=node.url("library"))
    with open_accounts(settings, create=True) as store:
        for account in store.list(limit=100):
            store.remove(account.id)
        yield store


@pytest.fixture
def users(node: Mongod) -> Iterator[Users]:
    settings = Settings(_env_file=None, storage="gridfs", mongodb_url=node.url("library"))
    with closing(connect_users(settings)) as users:
        yield users


def test_users_database_is_created_only_with_accounts(node: Mongod) -> None:
    settings = Settings(_env_file=None, storage="gridfs", mongodb_url=node.url("library"), access="open")
    with node.direct() as client:
        prepare_database(settings)
        assert "users" not in client.list_database_names()
        prepare_database(settings.model_copy(update={"access": "accounts"}))
        assert "users" in client.list_database_names()


def test_users_database_uses_credentials_of_files_url(node: Mongod) -> None:
    """The database in that URL's path knows these credentials; `users` does not."""
    with node.direct() as client:
        roles = [{"role": "readWrite", "db": "users"}]
        client["library"].command("createUser", "anna", pwd="p@ss", roles=roles)
    url = node.url("library").replace("mongodb://", "mongodb://anna:{}@")
    settings = Settings(_env_file=None, storage="gridfs", mongodb_url=url.format("p%40ss"))
    with open_accounts(settings, create=True) as store:
        assert store.count() == 0
    wrong = settings.model_copy(update={"mongodb_url": url.format("wrong")})
    with pytest.raises(StorageUnavailable, match="Authentication failed"), open_accounts(wrong, create=True):
        pass


@contextmanager
def failing(node: Mongod, command: str, collection: str, *, after: int = 0) -> Iterator[None]:
    """Fail a command as if the process died before it, or before its next call after `after` calls."""
    with failpoint(node, command, collection, after, errorCode=1), pytest.raises(StorageUnavailable):
        yield


@contextmanager
def failpoint(node: Mongod, command: str, collection: str, after: int, **options: object) -> Iterator[None]:
    data = {"failCommands": [command], "namespace": f"users.{collection}", **options}
    with node.direct() as client:
        client.admin.command({"configureFailPoint": "failCommand", "mode": {"skip": after}, "data": data})
        try:
            yield
        finally:
            client.admin.command({"configureFailPoint": "failCommand", "mode": "off"})


def test_used_invite_stays_used_after_crash(node: Mongod, store: AccountStore) -> None:
    invite, anna = make_invite(), make_account()
    store.invites.add(invite)
    with failing(node, "delete", "invites"):
        store.add(anna, invite=invite.hash)
    assert store.by_email(anna.email) is not None
    assert store.invites.list() == []
    for _ in range(2):
        with pytest.raises(SignUpRefused):
            store.add(make_account(), invite=invite.hash)
        store.remove(anna.id)
    assert store.count() == 0


def test_sessions_end_even_when_they_cannot_be_deleted(node: Mongod, store: AccountStore) -> None:
    anna = store.add(make_account())
    for version, change in (
        (1, lambda: store.set_password(anna.id, "new", version=1)),
        (2, lambda: store.set_disabled(anna.id, True)),
    ):
        session = make_session(anna)
        assert store.sessions.add(session, version=version)
        with failing(node, "delete", "sessions"):
            change()
        assert store.sessions.get(session.hash) is None
        assert store.sessions.list(anna.id) == []
        assert store.sessions.existing([session.hash]) == set()
    store.set_disabled(anna.id, False)
    assert store.sessions.get(session.hash) is None


def test_mark_leaving_and_remove_resume_after_crash(node: Mongod, store: AccountStore) -> None:
    anna, later = store.add(make_account()), timedelta(days=1)
    token, link = make_token(anna), make_link(anna)
    store.tokens.add(token)
    store.links.add(link)
    with failing(node, "delete", "tokens"):
        store.mark_leaving(anna.id)
    assert [one.id for one in store.list_leaving()] == [anna.id]
    store.mark_leaving(anna.id)
    assert store.tokens.get(token.hash) is store.links.get(link.id) is None
    with failing(node, "delete", "accounts"):
        store.remove(anna.id)
    assert [one.id for one in store.list_leaving()] == [anna.id]
    store.remove(anna.id)
    assert store.count() == 0
    store.sweep(
        now=anna.created_at, seen_before=anna.created_at - later, created_before=anna.created_at - later
    )


def test_remove_appoints_administrator_when_crash_prevented_it(node: Mongod, store: AccountStore) -> None:
    first, heir = store.add(make_account()), make_account()
    store.mark_leaving(first.id)
    with failing(node, "update", "accounts"):  # the account is stored, but its client gets an error
        store.add(heir)
    assert [one.is_admin for one in store.list(limit=9) if not one.leaving] == [False]
    store.remove(first.id)
    assert [(one.id, one.is_admin) for one in store.list(limit=9)] == [(heir.id, True)]


def test_administrator_counts_again_when_its_resignation_crashed(
    node: Mongod, store: AccountStore, users: Users
) -> None:
    brief = MongoAccounts(users, resignation_lasts_ms=300)
    anna, bert = (store.add(make_account(is_admin=True)) for _ in range(2))
    store.add(make_account())
    with failing(node, "find", "accounts", after=1):  # after the account announced that it leaves
        brief.mark_leaving(anna.id)
    assert store.list_leaving() == []
    start = time.monotonic()
    store.mark_leaving(bert.id)
    assert time.monotonic() - start > 0.2
    assert [one.id for one in store.list_leaving()] == [bert.id]
    with pytest.raises(LastAdministrator):
        store.mark_leaving(anna.id)


def test_mark_leaving_checks_again_when_server_was_paused(node: Mongod, store: AccountStore) -> None:
    """Its earlier check has expired: this account may be the last administrator now."""
    anna, bert = (store.add(make_account(is_admin=True)) for _ in range(2))
    store.add(make_account())
    url = f"{node.url('library')}&appName=stopped"
    settings = Settings(_env_file=None, storage="gridfs", mongodb_url=url)
    stopped: dict[str, object] = {"blockConnection": True, "blockTimeMS": 500, "appName": "stopped"}
    with (
        closing(connect_users(settings)) as users,
        failpoint(node, "update", "accounts", 1, **stopped),
        ThreadPoolExecutor(1) as pool,
    ):
        late = pool.submit(MongoAccounts(users, resignation_lasts_ms=200).mark_leaving, anna.id)
        time.sleep(0.3)
        store.mark_leaving(bert.id)
        with pytest.raises(LastAdministrator):
            late.result()
    assert [one.id for one in store.list_leaving()] == [bert.id]
