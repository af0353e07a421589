"""The contract of account stores, on every database: app/accounts/store.py."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from threading import Barrier
from typing import Any, TypeVar

import pytest

from app.accounts.errors import AccountError, EmailTaken, LastAdministrator, SignUpRefused, UnknownRecord
from app.accounts.login_limits import Bucket
from app.accounts.models import Account, Destination, Invite, Link, Scope, Session, SigningKey, Token
from app.accounts.store import MAX_SESSIONS, AccountStore
from app.database import open_accounts
from app.database.filesystem.opening import open_folder_library
from app.settings import Settings
from app.storage.errors import StorageUnavailable
from tests.conftest import BACKENDS
from tests.support import postgres
from tests.support.mongo import mongod
from tests.system.faults.lossy_proxy import Loss, LossyProxy

T = TypeVar("T")

NOW = datetime.now(UTC).replace(microsecond=0)
RACERS = 20
NUMBERS = count(1)


@contextmanager
def standalone() -> Iterator[dict[str, object]]:
    """Run a MongoDB without a replica set, and so without transactions, that refuses table scans."""
    with mongod(replica_set="") as node:
        with node.direct() as client:
            client.admin.command("setParameter", 1, notablescan=True)
        yield {"storage": "gridfs", "mongodb_url": node.url("library")}


@pytest.fixture(scope="module", params=[*BACKENDS, pytest.param("standalone", id="gridfs-standalone")])
def settings_of(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Settings]:
    """Return the settings of one database for all tests of this module."""
    with ExitStack() as stack:
        name = request.param
        options = stack.enter_context(standalone()) if name == "standalone" else BACKENDS[name]()
        # All tests share one MongoDB, but each module needs a `users` database of its own.
        if "mongodb_url" in options:
            options["users_url"] = str(options["mongodb_url"]).replace("library", "users")
        yield Settings(_env_file=None, files_dir=tmp_path_factory.mktemp("accounts") / "files", **options)


@pytest.fixture(scope="module")
def opened(settings_of: Settings) -> Iterator[AccountStore]:
    with open_accounts(settings_of, create=True) as store:
        yield store


@pytest.fixture
def store(opened: AccountStore) -> AccountStore:
    """Return the store, without accounts and invites."""
    for account in opened.list(limit=1000):
        opened.remove(account.id)
    for invite in opened.invites.list():
        opened.invites.remove(invite.hash)
    assert opened.count() == 0
    return opened


def make_account(email: str = "", **fields: Any) -> Account:
    number = next(NUMBERS)
    account = Account(
        id=f"account-{number}",
        email=email or f"person-{number}@example.org",
        password=f"$argon2id${number}",
        version=1,
        library=f"account-{number}",
        is_admin=False,
        disabled=False,
        leaving=False,
        quota=None,
        created_at=NOW,
    )
    return replace(account, **fields)


def make_session(account: Account, created_at: datetime = NOW, seen_at: datetime = NOW) -> Session:
    return Session(f"session-{next(NUMBERS)}", account.id, created_at, seen_at)


def make_token(account: Account, created_at: datetime = NOW) -> Token:
    number = next(NUMBERS)
    return Token(f"id-{number}", account.id, "VLC", f"token-{number}", frozenset({Scope.READ}), created_at)


def make_link(account: Account, **fields: Any) -> Link:
    link = Link(
        id=f"link-{next(NUMBERS)}",
        account_id=account.id,
        path="films",
        is_playlist=True,
        recursive=False,
        automatic=False,
        created_at=NOW,
        expires_at=NOW + timedelta(days=7),
    )
    return replace(link, **fields)


def make_invite(expires_in: timedelta = timedelta(days=7)) -> Invite:
    return Invite(f"invite-{next(NUMBERS)}", NOW, NOW + expires_in)


def make_key() -> SigningKey:
    number = next(NUMBERS)
    return SigningKey(f"key-{number}", f"secret-{number}", NOW)


def race(*calls: Callable[[], T]) -> list[T | AccountError]:
    """Call all functions at the same time and return their results or account errors."""
    together = Barrier(len(calls))

    def run(call: Callable[[], T]) -> T | AccountError:
        together.wait()
        try:
            return call()
        except AccountError as error:
            return error

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


# Accounts


def test_first_account_is_administrator_with_shared_library(store: AccountStore) -> None:
    first, second = make_account(), make_account(quota=1 << 50)
    assert store.add(first) == replace(first, is_admin=True, library="")
    assert store.add(second) == second
    assert store.get(first.id) == replace(first, is_admin=True, library="")
    assert store.by_email(second.email) == store.get(second.id) == second
    assert store.count() == 2


def test_unknown_account_is_not_found(store: AccountStore) -> None:
    assert store.get("nobody") is store.by_email("nobody@example.org") is None
    assert (
        store.sessions.get("none")
        is store.tokens.get("none")
        is store.links.get("none")
        is store.links.get("no\0ne")
        is None
    )
    assert [*store.sessions.list("nobody"), *store.tokens.list("nobody"), *store.links.list("nobody")] == []
    assert not store.set_password("nobody", "new", version=1)
    for call in (
        lambda: store.set_disabled("nobody", True),
        lambda: store.set_quota("nobody", 1),
        lambda: store.mark_leaving("nobody"),
        lambda: store.tokens.add(make_token(make_account())),
        lambda: store.links.add(make_link(make_account())),
    ):
        with pytest.raises(UnknownRecord):
            call()
    assert not store.invites.remove("none")
    assert not store.invites.remove("no\0ne")
    store.remove("nobody")
    store.sessions.remove("none")
    store.sessions.touch("none", NOW)
    assert store.sessions.get("none") is None


def test_accounts_are_listed_in_byte_order_of_email(store: AccountStore) -> None:
    emails = [
        "b@nas",
        "a@nas",
        "a-b@nas",
        "é@nas",
        "z@nas",
        "a@nas.example",
        "\N{PERSONAL COMPUTER}@nas",
        "ﬀ@nas",
    ]
    for email in emails:
        store.add(make_account(email))
    expected = sorted(emails, key=str.encode)
    assert [account.email for account in store.list(limit=100)] == expected
    assert [account.email for account in store.list(after=expected[2], limit=3)] == expected[3:6]


def test_add_raises_email_taken_when_email_exists(store: AccountStore) -> None:
    anna = store.add(make_account("anna@nas"))
    with pytest.raises(EmailTaken):
        store.add(make_account("anna@nas"))
    assert store.list(limit=9) == [anna]


def test_one_account_wins_race_for_email(store: AccountStore) -> None:
    accounts = [make_account("anna@nas") for _ in range(RACERS)]
    found = race(*(lambda account=account: store.add(account) for account in accounts))
    won = [one for one in found if isinstance(one, Account)]
    assert store.list(limit=99) == won
    assert len(won) == 1
    assert sum(isinstance(one, EmailTaken) for one in found) == RACERS - 1


def test_one_account_wins_race_to_be_first(store: AccountStore) -> None:
    accounts = [make_account() for _ in range(RACERS)]
    found = race(*(lambda account=account: store.add(account) for account in accounts))
    assert {*store.list(limit=99)} == {*found}
    assert [one.library for one in store.list(limit=99) if one.is_admin] == [""]
    assert len({one.library for one in store.list(limit=99)}) == RACERS


def test_quota_is_stored(store: AccountStore) -> None:
    account = store.add(make_account())
    for quota in (0, 5 << 40, None):
        store.set_quota(account.id, quota)
        assert store.get(account.id) == replace(account, quota=quota)


# Invites


def test_invite_admits_one_account(store: AccountStore) -> None:
    invite, other = make_invite(), make_invite()
    store.invites.add(invite)
    store.invites.add(other)
    account = store.add(make_account(), invite=invite.hash)
    with pytest.raises(SignUpRefused):
        store.add(make_account(), invite=invite.hash)
    assert store.list(limit=9) == [account]
    assert store.invites.list() == [other]
    store.remove(account.id)
    with pytest.raises(SignUpRefused):
        store.add(make_account(), invite=invite.hash)


def test_invite_is_refused_when_expired_or_revoked_or_unknown(store: AccountStore) -> None:
    expired, revoked = make_invite(timedelta(seconds=-1)), make_invite()
    store.invites.add(expired)
    store.invites.add(revoked)
    store.invites.remove(revoked.hash)
    for invite in (expired.hash, revoked.hash, "none"):
        with pytest.raises(SignUpRefused):
            store.add(make_account(), invite=invite)
    assert store.count() == 0


def test_invite_stays_valid_when_sign_up_fails(store: AccountStore) -> None:
    invite = make_invite()
    store.invites.add(invite)
    store.add(make_account("anna@nas"))
    with pytest.raises(EmailTaken):
        store.add(make_account("anna@nas"), invite=invite.hash)
    assert store.invites.list() == [invite]
    store.add(make_account(), invite=invite.hash)


def test_one_account_wins_race_for_invite(store: AccountStore) -> None:
    invite = make_invite()
    store.invites.add(invite)
    accounts = [make_account() for _ in range(RACERS)]
    found = race(*(lambda account=account: store.add(account, invite=invite.hash) for account in accounts))
    assert store.list(limit=99) == [one for one in found if isinstance(one, Account)]
    assert sum(isinstance(one, SignUpRefused) for one in found) == RACERS - 1
    assert store.invites.list() == []


def test_invite_is_either_used_or_revoked_when_both_race(store: AccountStore) -> None:
    for _ in range(10):
        invite, account = make_invite(), make_account()
        store.invites.add(invite)
        used, revoked = race(
            lambda invite=invite, account=account: store.add(account, invite=invite.hash),
            lambda invite=invite: store.invites.remove(invite.hash),
        )
        assert isinstance(used, SignUpRefused) == (store.get(account.id) is None)
        assert isinstance(used, SignUpRefused) or revoked is False
        assert store.invites.list() == []


def test_invites_are_listed_newest_first(store: AccountStore) -> None:
    invites = [replace(make_invite(), created_at=NOW + timedelta(seconds=n)) for n in (2, 0, 1)]
    for invite in invites:
        store.invites.add(invite)
    assert store.invites.list() == [invites[0], invites[2], invites[1]]


def test_records_of_same_time_are_listed_in_order_of_their_ids(store: AccountStore) -> None:
    anna = store.add(make_account())
    ids = ["b", "ab", "Z", "\N{LATIN SMALL LETTER E WITH ACUTE}", "a", "aa"]
    for one in ids:
        store.invites.add(replace(make_invite(), hash=one))
        store.sessions.add(replace(make_session(anna), hash=one), version=1)
        store.tokens.add(replace(make_token(anna), id=one))
        store.links.add(make_link(anna, id=one))
    assert [invite.hash for invite in store.invites.list()] == sorted(ids)
    assert [session.hash for session in store.sessions.list(anna.id)] == sorted(ids)
    assert [token.id for token in store.tokens.list(anna.id)] == sorted(ids)
    assert [link.id for link in store.links.list(anna.id)] == sorted(ids)


# Passwords, and which accounts may log in


def test_set_password_ends_all_sessions_of_account(store: AccountStore) -> None:
    anna, bert = store.add(make_account()), store.add(make_account())
    sessions = [make_session(anna), make_session(anna), make_session(bert)]
    for session in sessions:
        assert store.sessions.add(session, version=1)
    assert not store.set_password(anna.id, "new", version=2)
    assert store.get(anna.id) == anna
    assert len(store.sessions.list(anna.id)) == 2
    assert store.set_password(anna.id, "new", version=1)
    assert store.get(anna.id) == replace(anna, password="new", version=2)
    assert [store.sessions.get(session.hash) for session in sessions] == [None, None, sessions[2]]
    assert [*store.sessions.list(anna.id), *store.sessions.list(bert.id)] == [sessions[2]]


def test_one_call_wins_race_to_change_password(store: AccountStore) -> None:
    anna = store.add(make_account())
    passwords = [f"password-{n}" for n in range(RACERS)]
    found = race(
        *(lambda one=one: store.set_password(anna.id, one, version=1) for one in passwords)  # type: ignore[misc]
    )
    assert found.count(True) == 1
    assert found.count(False) == RACERS - 1
    password = passwords[found.index(True)]
    assert store.get(anna.id) == replace(anna, password=password, version=2)


def test_add_session_needs_current_version_and_active_account(store: AccountStore) -> None:
    admin, anna = store.add(make_account()), store.add(make_account())
    assert not store.sessions.add(make_session(anna), version=2)
    assert not store.sessions.add(make_session(make_account()), version=1)
    store.set_disabled(anna.id, True)
    assert not store.sessions.add(make_session(anna), version=1)
    store.set_disabled(anna.id, False)
    store.mark_leaving(anna.id)
    assert not store.sessions.add(make_session(anna), version=1)
    assert [*store.sessions.list(anna.id), *store.sessions.list(admin.id)] == []


def test_no_session_remains_when_login_races_with_password_change(store: AccountStore) -> None:
    anna = store.add(make_account())
    for version in range(1, 8):
        sessions = [make_session(anna) for _ in range(3)]
        race(
            *(lambda s=s, v=version: store.sessions.add(s, version=v) for s in sessions),
            lambda v=version: store.set_password(anna.id, f"{v}", version=v),
        )
        assert store.sessions.list(anna.id) == []
        assert {store.sessions.get(session.hash) for session in sessions} == {None}


def test_set_disabled_ends_sessions_permanently(store: AccountStore) -> None:
    anna = store.add(make_account())
    session, token = make_session(anna), make_token(anna)
    store.sessions.add(session, version=1)
    store.tokens.add(token)
    store.set_disabled(anna.id, True)
    assert store.get(anna.id) == replace(anna, disabled=True)
    store.set_disabled(anna.id, False)
    assert store.get(anna.id) == anna
    assert store.sessions.get(session.hash) is None
    assert store.sessions.list(anna.id) == []
    assert store.tokens.get(token.hash) == token


# Deleting accounts


def test_mark_leaving_removes_records_and_remove_removes_account(store: AccountStore) -> None:
    store.add(make_account())
    anna, bert = store.add(make_account()), store.add(make_account())
    mine, theirs = [
        (make_session(account), make_token(account), make_link(account)) for account in (anna, bert)
    ]
    for session, token, link in (mine, theirs):
        assert store.sessions.add(session, version=1)
        store.tokens.add(token)
        store.links.add(link)
    store.mark_leaving(anna.id)
    assert store.get(anna.id) == store.by_email(anna.email) == replace(anna, leaving=True)
    assert store.list_leaving() == [replace(anna, leaving=True)]
    assert store.count() == 3
    assert _stored(store, *mine) == [None, None, None]
    assert _stored(store, *theirs) == [*theirs]
    store.mark_leaving(anna.id)
    for call in (lambda: store.tokens.add(mine[1]), lambda: store.links.add(mine[2])):
        with pytest.raises(UnknownRecord):
            call()
    assert _stored(store, *mine) == [None, None, None]
    store.remove(anna.id)
    store.remove(bert.id)
    assert store.get(anna.id) is store.get(bert.id) is None
    assert store.list_leaving() == []
    assert _stored(store, *theirs) == [None, None, None]
    assert [*store.sessions.list(bert.id), *store.tokens.list(bert.id), *store.links.list(bert.id)] == []
    store.add(make_account(anna.email))


def test_mark_leaving_stores_destination_of_files(store: AccountStore) -> None:
    admin = store.add(make_account())
    for number, keep in enumerate((Destination("", "anna@nas"), Destination("", ""), None)):
        anna = store.add(make_account(is_admin=number == 1))
        assert anna.keep is None
        store.mark_leaving(anna.id, keep)
        assert [one.keep for one in store.list_leaving()] == [keep]
        store.mark_leaving(anna.id, other := Destination(admin.library, f"{number}/other"))
        assert [one.keep for one in store.list_leaving()] == [other]
        store.mark_leaving(anna.id)
        assert [one.keep for one in store.list_leaving()] == [None]
        store.remove(anna.id)


def test_announced_returns_latest_server_address(store: AccountStore) -> None:
    for address in ("http://127.0.0.1:8000", "http://127.0.0.1:8000", "http://[::1]:123"):
        store.announce(address)
        assert store.announced() == address


def _stored(store: AccountStore, session: Session, token: Token, link: Link) -> list[object]:
    return [store.sessions.get(session.hash), store.tokens.get(token.hash), store.links.get(link.id)]


def test_nothing_remains_when_items_are_added_while_account_leaves(store: AccountStore) -> None:
    store.add(make_account())
    for _ in range(5):
        anna = store.add(make_account())
        race(
            lambda anna=anna: store.tokens.add(make_token(anna)),
            lambda anna=anna: store.links.add(make_link(anna)),
            lambda anna=anna: store.sessions.add(make_session(anna), version=1),
            lambda anna=anna: store.mark_leaving(anna.id),
        )
        assert [*store.sessions.list(anna.id), *store.tokens.list(anna.id), *store.links.list(anna.id)] == []


@pytest.mark.parametrize(
    ("others", "may_leave"),
    [
        ([], True),
        ([{}], False),
        ([{"is_admin": True}, {}], True),
        ([{"is_admin": True, "disabled": True}], False),
        ([{"is_admin": True, "leaving": True}, {}], False),
        ([{"leaving": True}], True),
    ],
)
def test_mark_leaving_refuses_last_administrator_while_others_remain(
    store: AccountStore, others: list[dict[str, bool]], may_leave: bool
) -> None:
    admin = store.add(make_account())
    session = make_session(admin)
    store.sessions.add(session, version=1)
    for fields in others:
        store.add(make_account(**fields))
    if may_leave:
        store.mark_leaving(admin.id)
        assert store.get(admin.id) == replace(admin, leaving=True)
    else:
        with pytest.raises(LastAdministrator):
            store.mark_leaving(admin.id)
        assert store.get(admin.id) == admin
        assert store.sessions.get(session.hash) == session


def test_one_administrator_remains_when_all_race_to_leave(store: AccountStore) -> None:
    admins = [store.add(make_account(is_admin=True)) for _ in range(4)]
    store.add(make_account())
    found = race(*(lambda account=account: store.mark_leaving(account.id) for account in admins))
    assert sorted(str(type(one)) for one in found) == sorted(map(str, [type(None)] * 3 + [LastAdministrator]))
    assert len(store.list_leaving()) == 3


def test_new_account_is_administrator_when_all_others_leave(store: AccountStore) -> None:
    first = store.add(make_account())
    store.mark_leaving(first.id)
    heir = store.add(make_account())
    assert (heir.is_admin, heir.library) == (True, heir.id)
    assert store.get(heir.id) == heir
    assert not store.add(make_account()).is_admin
    store.remove(first.id)
    assert store.get(heir.id) == heir
    # This is not limited to the first time.
    for account in store.list(limit=9):
        if account != heir:
            store.mark_leaving(account.id)
    store.mark_leaving(heir.id)
    assert store.add(make_account()).is_admin


def test_one_of_concurrent_accounts_is_administrator_when_all_others_leave(store: AccountStore) -> None:
    store.mark_leaving(store.add(make_account()).id)
    accounts = [make_account(created_at=NOW + timedelta(seconds=n % 3)) for n in range(RACERS)]
    race(*(lambda account=account: store.add(account) for account in accounts))
    assert sum(one.is_admin and not one.leaving for one in store.list(limit=99)) == 1


def test_one_administrator_remains_when_sign_ups_race_with_leave(store: AccountStore) -> None:
    for _ in range(10):
        for account in store.list(limit=99):
            store.remove(account.id)
        admin = store.add(make_account())
        accounts = [make_account() for _ in range(3)]
        race(
            *(lambda one=one: store.add(one) for one in accounts),  # type: ignore[misc]
            lambda admin=admin: store.mark_leaving(admin.id),  # type: ignore[misc]
        )
        assert sum(one.is_admin and not one.leaving for one in store.list(limit=99)) == 1
        store.remove(admin.id)
        assert sum(one.is_admin for one in store.list(limit=99)) <= 1


def test_set_admin_promotes_and_demotes_but_keeps_last_administrator(store: AccountStore) -> None:
    admin, anna = store.add(make_account()), store.add(make_account())
    store.set_admin(anna.id, False)
    for able in ({}, {"disabled": True}):
        with pytest.raises(LastAdministrator):
            store.set_admin(admin.id, False)
        store.set_admin(anna.id, True)
        assert store.get(anna.id) == replace(anna, is_admin=True)
        store.set_disabled(anna.id, "disabled" in able)
        if able:
            with pytest.raises(LastAdministrator):
                store.set_admin(admin.id, False)
            store.set_disabled(anna.id, False)
        store.set_admin(admin.id, False)
        assert store.get(admin.id) == replace(admin, is_admin=False)
        admin, anna = replace(anna, is_admin=True), replace(admin, is_admin=False)
    store.mark_leaving(anna.id)
    for account_id in (anna.id, "nobody"):
        for is_admin in (True, False):
            with pytest.raises(UnknownRecord):
                store.set_admin(account_id, is_admin)
    with pytest.raises(LastAdministrator):  # although it is the only account, and may leave
        store.set_admin(admin.id, False)


def test_one_administrator_remains_when_leave_races_with_demotion(store: AccountStore) -> None:
    admins = [store.add(make_account(is_admin=True)) for _ in range(4)]
    store.add(make_account())
    found = race(
        *(lambda one=one: store.mark_leaving(one.id) for one in admins[:2]),
        *(lambda one=one: store.set_admin(one.id, False) for one in admins[2:]),
    )
    assert sum(isinstance(one, LastAdministrator) for one in found) == 1
    assert sum(one.is_admin and not one.leaving for one in store.list(limit=9)) == 1


# Sessions, tokens, links


def test_sessions_are_listed_newest_first_with_last_seen_time(store: AccountStore) -> None:
    anna = store.add(make_account())
    sessions = [make_session(anna, NOW + timedelta(seconds=n)) for n in (2, 0, 1)]
    for session in sessions:
        store.sessions.add(session, version=1)
    assert store.sessions.list(anna.id) == [sessions[0], sessions[2], sessions[1]]
    later = NOW + timedelta(minutes=1)
    store.sessions.touch(sessions[1].hash, later)
    store.sessions.touch(sessions[1].hash, NOW)  # a late report from another process
    assert store.sessions.get(sessions[1].hash) == replace(sessions[1], seen_at=later)
    store.sessions.remove(sessions[1].hash)
    assert store.sessions.list(anna.id) == [sessions[0], sessions[2]]


def test_add_session_keeps_newest_sessions_of_account(store: AccountStore) -> None:
    anna, bert = store.add(make_account()), store.add(make_account())
    other = make_session(bert, NOW - timedelta(days=1))
    store.sessions.add(other, version=1)
    made = [make_session(anna, NOW + timedelta(seconds=n // 2)) for n in range(MAX_SESSIONS + 3)]
    for session in made:
        assert store.sessions.add(session, version=1)
        assert store.sessions.get(session.hash) == session
    kept = store.sessions.list(anna.id)
    assert len(kept) == MAX_SESSIONS
    assert {*kept} >= {*made[5:]}
    assert store.sessions.get(made[0].hash) is None
    late = make_session(anna, NOW - timedelta(days=1))  # from a machine whose clock is behind
    assert store.sessions.add(late, version=1)
    assert store.sessions.get(late.hash) == late
    assert len(store.sessions.list(anna.id)) == MAX_SESSIONS
    assert store.sessions.list(bert.id) == [other]


def test_add_session_removes_last_hash_of_sessions_with_equal_time(store: AccountStore) -> None:
    anna = store.add(make_account())
    hashes = [f"{number:03}" for number in range(MAX_SESSIONS)]
    for secret_hash in [*hashes[1::2], *hashes[::2]]:
        store.sessions.add(Session(secret_hash, anna.id, NOW, NOW), version=1)
    for number in range(3):
        at = NOW + timedelta(seconds=1 + number)
        store.sessions.add(Session(f"newer-{number}", anna.id, at, at), version=1)
    kept = [session.hash for session in store.sessions.list(anna.id)]
    assert kept == ["newer-2", "newer-1", "newer-0", *hashes[:-3]]


def test_tokens_belong_to_their_account(store: AccountStore) -> None:
    anna, bert = store.add(make_account()), store.add(make_account())
    tokens = [make_token(anna, NOW + timedelta(seconds=n)) for n in (2, 0, 1)]
    tokens[0] = replace(tokens[0], scopes=frozenset(Scope), name='"VLC" – \N{TELEVISION}')
    tokens[1] = replace(tokens[1], scopes=frozenset())
    for token in tokens:
        store.tokens.add(token)
        assert store.tokens.get(token.hash) == token
    assert store.tokens.list(anna.id) == [tokens[0], tokens[2], tokens[1]]
    assert store.tokens.list(bert.id) == []
    for account, token_id in ((bert, tokens[0].id), (anna, "none"), (anna, "no\0ne")):
        assert not store.tokens.remove(token_id, account_id=account.id)
    assert store.tokens.remove(tokens[0].id, account_id=anna.id)
    assert store.tokens.get(tokens[0].hash) is None
    store.tokens.remove_all(bert.id)
    assert len(store.tokens.list(anna.id)) == 2
    store.tokens.remove_all(anna.id)
    assert store.tokens.list(anna.id) == []


def test_links_belong_to_their_account(store: AccountStore) -> None:
    anna, bert = store.add(make_account()), store.add(make_account())
    links = [make_link(anna, created_at=NOW + timedelta(seconds=n), path="ü/" * n) for n in (2, 0, 1)]
    for link in links:
        store.links.add(link)
        assert store.links.get(link.id) == link
    assert store.links.list(anna.id) == [links[0], links[2], links[1]]
    for account, link_id in ((bert, links[0].id), (anna, "none"), (anna, "no\0ne")):
        assert not store.links.remove(link_id, account_id=account.id)
    assert store.links.remove(links[0].id, account_id=anna.id)
    assert store.links.get(links[0].id) is None
    assert store.links.existing([link.id for link in links] + ["none"]) == {links[1].id, links[2].id}


def test_automatic_link_is_found_when_it_lasts_long_enough(store: AccountStore) -> None:
    anna, bert = store.add(make_account()), store.add(make_account())
    until = NOW + timedelta(days=1)
    short, exact = (
        make_link(anna, automatic=True, expires_at=expires_at)
        for expires_at in (until - timedelta(seconds=1), until)
    )
    others = [
        make_link(anna),
        make_link(anna, automatic=True, recursive=True),
        make_link(anna, automatic=True, path=""),
        make_link(anna, automatic=True, path="films", is_playlist=False),
        make_link(bert, automatic=True),
    ]
    for link in (short, *others):
        store.links.add(link)
    assert store.links.find_automatic(anna.id, "films", recursive=False, until=until) is None
    store.links.add(exact)
    assert store.links.find_automatic(anna.id, "films", recursive=False, until=until) == exact
    assert store.links.find_automatic(anna.id, "films", recursive=True, until=until) == others[1]
    assert store.links.find_automatic(anna.id, "", recursive=False, until=until) == others[2]
    assert store.links.find_automatic(bert.id, "films", recursive=False, until=until) == others[4]


# Signing keys


def test_add_signing_key_keeps_named_keys_newest_first(store: AccountStore) -> None:
    one, two, three = make_key(), make_key(), make_key()
    store.signing_keys.rotate(one, keep=[])
    assert store.signing_keys.list() == [one]
    store.signing_keys.add_first(make_key())
    assert store.signing_keys.list() == [one]
    store.signing_keys.rotate(two, keep=[one.id])
    assert store.signing_keys.list() == [two, one]
    store.signing_keys.rotate(three, keep=[two.id, "none"])
    assert store.signing_keys.list() == [three, two]


def test_at_least_one_signing_key_remains_when_added_concurrently(store: AccountStore) -> None:
    for _ in range(5):
        old = store.signing_keys.list()
        keys = [make_key() for _ in range(4)]
        race(*(lambda key=key: store.signing_keys.rotate(key, keep=[]) for key in keys))
        found = store.signing_keys.list()
        assert found
        assert {*found} <= {*keys}
        assert not {*found} & {*old}


# Maintenance


def test_active_and_existing_return_valid_keys_in_bulk(store: AccountStore) -> None:
    accounts = [store.add(make_account()) for _ in range(4)]
    sessions = [make_session(account) for account in accounts]
    tokens = [make_token(account) for account in accounts]
    for session, token in zip(sessions, tokens, strict=True):
        store.sessions.add(session, version=1)
        store.tokens.add(token)
    versions = [(account.id, 1) for account in accounts]
    session_keys = [session.hash for session in sessions]
    token_keys = [token.hash for token in tokens]
    assert store.active(versions) == {*versions}
    assert store.sessions.existing(session_keys) == {*session_keys}
    assert store.tokens.existing(token_keys) == {*token_keys}
    store.set_password(accounts[0].id, "new", version=1)
    store.set_disabled(accounts[1].id, True)
    store.mark_leaving(accounts[2].id)
    assert store.active(versions) == {(accounts[3].id, 1)}
    assert store.sessions.existing(session_keys) == {sessions[3].hash}
    assert store.tokens.existing(token_keys) == {tokens[0].hash, tokens[1].hash, tokens[3].hash}
    assert store.active([(accounts[0].id, 2)]) == {(accounts[0].id, 2)}
    assert store.active([("none", 1)] * 500) == set()
    for records in (store.sessions, store.tokens, store.links):
        assert records.existing([f"{n}" for n in range(500)]) == records.existing([]) == set()


def test_sweep_removes_only_expired_items(store: AccountStore) -> None:
    anna = store.add(make_account())
    second, day = timedelta(seconds=1), timedelta(days=1)
    over = [make_link(anna, expires_at=NOW), make_invite(timedelta()), make_session(anna, NOW, NOW - second)]
    over.append(make_session(anna, NOW - day - second))
    kept = [make_link(anna, expires_at=NOW + second), make_invite(second), make_session(anna, NOW - day)]
    for one in (*over, *kept):
        match one:
            case Link():
                store.links.add(one)
            case Invite():
                store.invites.add(one)
            case Session():
                store.sessions.add(one, version=1)
    store.sweep(now=NOW, seen_before=NOW, created_before=NOW - day)
    assert [*store.links.list(anna.id), *store.invites.list(), *store.sessions.list(anna.id)] == kept
    assert store.get(anna.id) == anna


def test_everything_persists_when_database_is_reopened(store: AccountStore, settings_of: Settings) -> None:
    anna = store.add(make_account(quota=7))
    session, token, link = make_session(anna), make_token(anna), make_link(anna)
    invite, key = make_invite(), make_key()
    store.sessions.add(session, version=1)
    store.tokens.add(token)
    store.links.add(link)
    store.invites.add(invite)
    store.signing_keys.rotate(key, keep=[])
    with open_accounts(settings_of, create=False) as again:
        assert again.by_email(anna.email) == anna
        assert _stored(again, session, token, link) == [session, token, link]
        assert again.invites.list() == [invite]
        assert again.signing_keys.list() == [key]
        again.set_quota(anna.id, 8)
    assert store.get(anna.id) == replace(anna, quota=8)


# Lost connections


def test_change_succeeds_when_postgresql_commits_but_answer_is_lost(tmp_path: Path) -> None:
    with _connected_through_proxy(tmp_path) as (proxy, store):
        anna = store.add(make_account())
        proxy.loss = Loss.REPLY
        assert store.set_password(anna.id, "new", version=1)
        assert proxy.lost.is_set()
        assert store.get(anna.id) == replace(anna, password="new", version=2)


def test_store_is_unavailable_until_postgresql_returns(tmp_path: Path) -> None:
    with _connected_through_proxy(tmp_path, outcome_timeout_s=0.2) as (proxy, store):
        anna = store.add(make_account())
        proxy.loss, proxy.reachable = Loss.COMMIT, False
        with pytest.raises(StorageUnavailable):
            store.set_password(anna.id, "new", version=1)
        _assert_unavailable(store)
        proxy.reachable = True
        assert store.list(limit=9) == [anna]


@contextmanager
def _connected_through_proxy(tmp_path: Path, **options: Any) -> Iterator[tuple[LossyProxy, AccountStore]]:
    """Open the accounts of a new database. The options are those of `open_filesystem`."""
    proxy = LossyProxy(postgres.shared().port)
    url = postgres.shared().new_library().replace(str(postgres.shared().port), str(proxy.port))
    settings = Settings(_env_file=None, files_dir=tmp_path / "files", database_url=url)
    try:
        with ExitStack() as stack:
            store = open_folder_library(settings, stack, None, **options).accounts
            assert store is not None
            yield proxy, store
    finally:
        proxy.close()


def test_store_is_unavailable_until_killed_mongodb_returns() -> None:
    with mongod() as node:
        settings = Settings(_env_file=None, storage="gridfs", mongodb_url=node.url("library"))
        with open_accounts(settings, create=True) as store:
            anna = store.add(make_account())
            session = make_session(anna)
            assert store.sessions.add(session, version=1)
            node.kill()
            _assert_unavailable(store)
            node.restart()
            assert _retry_until_available(store.count) == 1
            assert store.get(anna.id) == anna
            assert store.sessions.get(session.hash) == session
        with node.direct() as client:  # the database of the files was not touched
            assert {*client.list_database_names()} - {"admin", "config", "local"} == {"users"}


def _retry_until_available(call: Callable[[], T]) -> T:
    deadline = time.monotonic() + 20
    while True:
        try:
            return call()
        except StorageUnavailable:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def _assert_unavailable(store: AccountStore) -> None:
    for call in (
        store.count,
        lambda: store.add(make_account()),
        lambda: store.sessions.get("none"),
        lambda: store.mark_leaving("nobody"),
        lambda: store.login_limits.attempt([Bucket("key", 1, 60.0)]),
    ):
        with pytest.raises(StorageUnavailable):
            call()
