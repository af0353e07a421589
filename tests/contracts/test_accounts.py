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

from app.accounts.errors import AccountError, EmailTaken, LastAdministrator, SignUpRefused, UnknownAccount
from app.accounts.login_limits import Bucket
from app.accounts.models import Account, Destination, Invite, Link, Scope, Session, SigningKey, Token
from app.accounts.store import MAX_SESSIONS, AccountStore
from app.database import open_accounts
from app.database.sql import postgresql
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
        if (
            "mongodb_url" in options
        ):  # all tests share one MongoDB, but each module needs a `users` database of its own
            options["users_url"] = str(options["mongodb_url"]).replace("library", "users")
        yield Settings(_env_file=None, files_dir=tmp_path_factory.mktemp("accounts") / "files", **options)


@pytest.fixture(scope="module")
def opened(settings_of: Settings) -> Iterator[AccountStore]:
    with open_accounts(settings_of, create=True) as store:
        yield store


@pytest.fixture
def store(opened: AccountStore) -> AccountStore:
    """Return the store, without accounts and invites."""
    for account in opened.accounts(limit=1000):
        opened.remove(account.id)
    for invite in opened.invites():
        opened.remove_invite(invite.hash)
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
    assert store.account(first.id) == replace(first, is_admin=True, library="")
    assert store.account_of(second.email) == store.account(second.id) == second
    assert store.count() == 2


def test_unknown_account_is_not_found(store: AccountStore) -> None:
    assert store.account("nobody") is store.account_of("nobody@example.org") is None
    assert store.session("none") is store.token("none") is store.link("none") is store.link("no\0ne") is None
    assert [*store.sessions("nobody"), *store.tokens("nobody"), *store.links("nobody")] == []
    assert not store.set_password("nobody", "new", version=1)
    for call in (
        lambda: store.set_disabled("nobody", True),
        lambda: store.set_quota("nobody", 1),
        lambda: store.leave("nobody"),
        lambda: store.add_token(make_token(make_account())),
        lambda: store.add_link(make_link(make_account())),
        lambda: store.remove_invite("none"),
        lambda: store.remove_invite("no\0ne"),
    ):
        with pytest.raises(UnknownAccount):
            call()
    store.remove("nobody")
    store.remove_session("none")
    store.see_session("none", NOW)
    assert store.session("none") is None


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
    assert [account.email for account in store.accounts(limit=100)] == expected
    assert [account.email for account in store.accounts(after=expected[2], limit=3)] == expected[3:6]


def test_add_raises_email_taken_when_email_exists(store: AccountStore) -> None:
    anna = store.add(make_account("anna@nas"))
    with pytest.raises(EmailTaken):
        store.add(make_account("anna@nas"))
    assert store.accounts(limit=9) == [anna]


def test_one_account_wins_race_for_email(store: AccountStore) -> None:
    accounts = [make_account("anna@nas") for _ in range(RACERS)]
    found = race(*(lambda account=account: store.add(account) for account in accounts))
    won = [one for one in found if isinstance(one, Account)]
    assert store.accounts(limit=99) == won
    assert len(won) == 1
    assert sum(isinstance(one, EmailTaken) for one in found) == RACERS - 1


def test_one_account_wins_race_to_be_first(store: AccountStore) -> None:
    accounts = [make_account() for _ in range(RACERS)]
    found = race(*(lambda account=account: store.add(account) for account in accounts))
    assert {*store.accounts(limit=99)} == {*found}
    assert [one.library for one in store.accounts(limit=99) if one.is_admin] == [""]
    assert len({one.library for one in store.accounts(limit=99)}) == RACERS


def test_quota_is_stored(store: AccountStore) -> None:
    account = store.add(make_account())
    for quota in (0, 5 << 40, None):
        store.set_quota(account.id, quota)
        assert store.account(account.id) == replace(account, quota=quota)


# Invites


def test_invite_admits_one_account(store: AccountStore) -> None:
    invite, other = make_invite(), make_invite()
    store.add_invite(invite)
    store.add_invite(other)
    account = store.add(make_account(), invite=invite.hash)
    with pytest.raises(SignUpRefused):
        store.add(make_account(), invite=invite.hash)
    assert store.accounts(limit=9) == [account]
    assert store.invites() == [other]
    store.remove(account.id)
    with pytest.raises(SignUpRefused):
        store.add(make_account(), invite=invite.hash)


def test_invite_is_refused_when_expired_or_revoked_or_unknown(store: AccountStore) -> None:
    expired, revoked = make_invite(timedelta(seconds=-1)), make_invite()
    store.add_invite(expired)
    store.add_invite(revoked)
    store.remove_invite(revoked.hash)
    for invite in (expired.hash, revoked.hash, "none"):
        with pytest.raises(SignUpRefused):
            store.add(make_account(), invite=invite)
    assert store.count() == 0


def test_invite_stays_valid_when_sign_up_fails(store: AccountStore) -> None:
    invite = make_invite()
    store.add_invite(invite)
    store.add(make_account("anna@nas"))
    with pytest.raises(EmailTaken):
        store.add(make_account("anna@nas"), invite=invite.hash)
    assert store.invites() == [invite]
    store.add(make_account(), invite=invite.hash)


def test_one_account_wins_race_for_invite(store: AccountStore) -> None:
    invite = make_invite()
    store.add_invite(invite)
    accounts = [make_account() for _ in range(RACERS)]
    found = race(*(lambda account=account: store.add(account, invite=invite.hash) for account in accounts))
    assert store.accounts(limit=99) == [one for one in found if isinstance(one, Account)]
    assert sum(isinstance(one, SignUpRefused) for one in found) == RACERS - 1
    assert store.invites() == []


def test_invite_is_either_used_or_revoked_when_both_race(store: AccountStore) -> None:
    for _ in range(10):
        invite, account = make_invite(), make_account()
        store.add_invite(invite)
        used, revoked = race(
            lambda invite=invite, account=account: store.add(account, invite=invite.hash),
            lambda invite=invite: store.remove_invite(invite.hash),
        )
        assert isinstance(used, SignUpRefused) == (store.account(account.id) is None)
        assert isinstance(used, SignUpRefused) or isinstance(revoked, UnknownAccount)
        assert store.invites() == []


def test_invites_are_listed_newest_first(store: AccountStore) -> None:
    invites = [replace(make_invite(), created_at=NOW + timedelta(seconds=n)) for n in (2, 0, 1)]
    for invite in invites:
        store.add_invite(invite)
    assert store.invites() == [invites[0], invites[2], invites[1]]


# Passwords, and which accounts may log in


def test_set_password_ends_all_sessions_of_account(store: AccountStore) -> None:
    anna, bert = store.add(make_account()), store.add(make_account())
    sessions = [make_session(anna), make_session(anna), make_session(bert)]
    for session in sessions:
        assert store.add_session(session, version=1)
    assert not store.set_password(anna.id, "new", version=2)
    assert store.account(anna.id) == anna
    assert len(store.sessions(anna.id)) == 2
    assert store.set_password(anna.id, "new", version=1)
    assert store.account(anna.id) == replace(anna, password="new", version=2)
    assert [store.session(session.hash) for session in sessions] == [None, None, sessions[2]]
    assert [*store.sessions(anna.id), *store.sessions(bert.id)] == [sessions[2]]


def test_one_call_wins_race_to_change_password(store: AccountStore) -> None:
    anna = store.add(make_account())
    passwords = [f"password-{n}" for n in range(RACERS)]
    found = race(
        *(lambda one=one: store.set_password(anna.id, one, version=1) for one in passwords)  # type: ignore[misc]
    )
    assert found.count(True) == 1
    assert found.count(False) == RACERS - 1
    password = passwords[found.index(True)]
    assert store.account(anna.id) == replace(anna, password=password, version=2)


def test_add_session_needs_current_version_and_active_account(store: AccountStore) -> None:
    admin, anna = store.add(make_account()), store.add(make_account())
    assert not store.add_session(make_session(anna), version=2)
    assert not store.add_session(make_session(make_account()), version=1)
    store.set_disabled(anna.id, True)
    assert not store.add_session(make_session(anna), version=1)
    store.set_disabled(anna.id, False)
    store.leave(anna.id)
    assert not store.add_session(make_session(anna), version=1)
    assert [*store.sessions(anna.id), *store.sessions(admin.id)] == []


def test_no_session_remains_when_login_races_with_password_change(store: AccountStore) -> None:
    anna = store.add(make_account())
    for version in range(1, 8):
        sessions = [make_session(anna) for _ in range(3)]
        race(
            *(lambda s=s, v=version: store.add_session(s, version=v) for s in sessions),
            lambda v=version: store.set_password(anna.id, f"{v}", version=v),
        )
        assert store.sessions(anna.id) == []
        assert {store.session(session.hash) for session in sessions} == {None}


def test_set_disabled_ends_sessions_permanently(store: AccountStore) -> None:
    anna = store.add(make_account())
    session, token = make_session(anna), make_token(anna)
    store.add_session(session, version=1)
    store.add_token(token)
    store.set_disabled(anna.id, True)
    assert store.account(anna.id) == replace(anna, disabled=True)
    store.set_disabled(anna.id, False)
    assert store.account(anna.id) == anna
    assert store.session(session.hash) is None
    assert store.sessions(anna.id) == []
    assert store.token(token.hash) == token


# Deleting accounts


def test_leave_removes_belongings_and_remove_removes_account(store: AccountStore) -> None:
    store.add(make_account())
    anna, bert = store.add(make_account()), store.add(make_account())
    mine, theirs = [
        (make_session(account), make_token(account), make_link(account)) for account in (anna, bert)
    ]
    for session, token, link in (mine, theirs):
        assert store.add_session(session, version=1)
        store.add_token(token)
        store.add_link(link)
    store.leave(anna.id)
    assert store.account(anna.id) == store.account_of(anna.email) == replace(anna, leaving=True)
    assert store.leaving() == [replace(anna, leaving=True)]
    assert store.count() == 3
    assert _stored(store, *mine) == [None, None, None]
    assert _stored(store, *theirs) == [*theirs]
    store.leave(anna.id)
    for call in (lambda: store.add_token(mine[1]), lambda: store.add_link(mine[2])):
        with pytest.raises(UnknownAccount):
            call()
    assert _stored(store, *mine) == [None, None, None]
    store.remove(anna.id)
    store.remove(bert.id)
    assert store.account(anna.id) is store.account(bert.id) is None
    assert store.leaving() == []
    assert _stored(store, *theirs) == [None, None, None]
    assert [*store.sessions(bert.id), *store.tokens(bert.id), *store.links(bert.id)] == []
    store.add(make_account(anna.email))


def test_leave_stores_destination_of_files(store: AccountStore) -> None:
    admin = store.add(make_account())
    for number, keep in enumerate((Destination("", "anna@nas"), Destination("", ""), None)):
        anna = store.add(make_account(is_admin=number == 1))
        assert anna.keep is None
        store.leave(anna.id, keep)
        assert [one.keep for one in store.leaving()] == [keep]
        store.leave(anna.id, other := Destination(admin.library, f"{number}/other"))
        assert [one.keep for one in store.leaving()] == [other]
        store.leave(anna.id)
        assert [one.keep for one in store.leaving()] == [None]
        store.remove(anna.id)


def test_announced_returns_latest_server_address(store: AccountStore) -> None:
    for address in ("http://127.0.0.1:8000", "http://127.0.0.1:8000", "http://[::1]:123"):
        store.announce(address)
        assert store.announced() == address


def _stored(store: AccountStore, session: Session, token: Token, link: Link) -> list[object]:
    return [store.session(session.hash), store.token(token.hash), store.link(link.id)]


def test_nothing_remains_when_items_are_added_while_account_leaves(store: AccountStore) -> None:
    store.add(make_account())
    for _ in range(5):
        anna = store.add(make_account())
        race(
            lambda anna=anna: store.add_token(make_token(anna)),
            lambda anna=anna: store.add_link(make_link(anna)),
            lambda anna=anna: store.add_session(make_session(anna), version=1),
            lambda anna=anna: store.leave(anna.id),
        )
        assert [*store.sessions(anna.id), *store.tokens(anna.id), *store.links(anna.id)] == []


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
def test_leave_refuses_last_administrator_while_others_remain(
    store: AccountStore, others: list[dict[str, bool]], may_leave: bool
) -> None:
    admin = store.add(make_account())
    session = make_session(admin)
    store.add_session(session, version=1)
    for fields in others:
        store.add(make_account(**fields))
    if may_leave:
        store.leave(admin.id)
        assert store.account(admin.id) == replace(admin, leaving=True)
    else:
        with pytest.raises(LastAdministrator):
            store.leave(admin.id)
        assert store.account(admin.id) == admin
        assert store.session(session.hash) == session


def test_one_administrator_remains_when_all_race_to_leave(store: AccountStore) -> None:
    admins = [store.add(make_account(is_admin=True)) for _ in range(4)]
    store.add(make_account())
    found = race(*(lambda account=account: store.leave(account.id) for account in admins))
    assert sorted(str(type(one)) for one in found) == sorted(map(str, [type(None)] * 3 + [LastAdministrator]))
    assert len(store.leaving()) == 3


def test_new_account_is_administrator_when_all_others_leave(store: AccountStore) -> None:
    first = store.add(make_account())
    store.leave(first.id)
    heir = store.add(make_account())
    assert (heir.is_admin, heir.library) == (True, heir.id)
    assert store.account(heir.id) == heir
    assert not store.add(make_account()).is_admin
    store.remove(first.id)
    assert store.account(heir.id) == heir
    # This is not limited to the first time.
    for account in store.accounts(limit=9):
        if account != heir:
            store.leave(account.id)
    store.leave(heir.id)
    assert store.add(make_account()).is_admin


def test_one_of_concurrent_accounts_is_administrator_when_all_others_leave(store: AccountStore) -> None:
    store.leave(store.add(make_account()).id)
    accounts = [make_account(created_at=NOW + timedelta(seconds=n % 3)) for n in range(RACERS)]
    race(*(lambda account=account: store.add(account) for account in accounts))
    assert sum(one.is_admin and not one.leaving for one in store.accounts(limit=99)) == 1


def test_one_administrator_remains_when_sign_ups_race_with_leave(store: AccountStore) -> None:
    for _ in range(10):
        for account in store.accounts(limit=99):
            store.remove(account.id)
        admin = store.add(make_account())
        accounts = [make_account() for _ in range(3)]
        race(
            *(lambda one=one: store.add(one) for one in accounts),  # type: ignore[misc]
            lambda admin=admin: store.leave(admin.id),  # type: ignore[misc]
        )
        assert sum(one.is_admin and not one.leaving for one in store.accounts(limit=99)) == 1
        store.remove(admin.id)
        assert sum(one.is_admin for one in store.accounts(limit=99)) <= 1


def test_set_admin_promotes_and_demotes_but_keeps_last_administrator(store: AccountStore) -> None:
    admin, anna = store.add(make_account()), store.add(make_account())
    store.set_admin(anna.id, False)
    for able in ({}, {"disabled": True}):
        with pytest.raises(LastAdministrator):
            store.set_admin(admin.id, False)
        store.set_admin(anna.id, True)
        assert store.account(anna.id) == replace(anna, is_admin=True)
        store.set_disabled(anna.id, "disabled" in able)
        if able:
            with pytest.raises(LastAdministrator):
                store.set_admin(admin.id, False)
            store.set_disabled(anna.id, False)
        store.set_admin(admin.id, False)
        assert store.account(admin.id) == replace(admin, is_admin=False)
        admin, anna = replace(anna, is_admin=True), replace(admin, is_admin=False)
    store.leave(anna.id)
    for account_id in (anna.id, "nobody"):
        for is_admin in (True, False):
            with pytest.raises(UnknownAccount):
                store.set_admin(account_id, is_admin)
    with pytest.raises(LastAdministrator):  # although it is the only account, and may leave
        store.set_admin(admin.id, False)


def test_one_administrator_remains_when_leave_races_with_demotion(store: AccountStore) -> None:
    admins = [store.add(make_account(is_admin=True)) for _ in range(4)]
    store.add(make_account())
    found = race(
        *(lambda one=one: store.leave(one.id) for one in admins[:2]),
        *(lambda one=one: store.set_admin(one.id, False) for one in admins[2:]),
    )
    assert sum(isinstance(one, LastAdministrator) for one in found) == 1
    assert sum(one.is_admin and not one.leaving for one in store.accounts(limit=9)) == 1


# Sessions, tokens, links


def test_sessions_are_listed_newest_first_with_last_seen_time(store: AccountStore) -> None:
    anna = store.add(make_account())
    sessions = [make_session(anna, NOW + timedelta(seconds=n)) for n in (2, 0, 1)]
    for session in sessions:
        store.add_session(session, version=1)
    assert store.sessions(anna.id) == [sessions[0], sessions[2], sessions[1]]
    later = NOW + timedelta(minutes=1)
    store.see_session(sessions[1].hash, later)
    store.see_session(sessions[1].hash, NOW)  # a late report from another process
    assert store.session(sessions[1].hash) == replace(sessions[1], seen_at=later)
    store.remove_session(sessions[1].hash)
    assert store.sessions(anna.id) == [sessions[0], sessions[2]]


def test_add_session_keeps_newest_sessions_of_account(store: AccountStore) -> None:
    anna, bert = store.add(make_account()), store.add(make_account())
    other = make_session(bert, NOW - timedelta(days=1))
    store.add_session(other, version=1)
    made = [make_session(anna, NOW + timedelta(seconds=n // 2)) for n in range(MAX_SESSIONS + 3)]
    for session in made:
        assert store.add_session(session, version=1)
        assert store.session(session.hash) == session
    kept = store.sessions(anna.id)
    assert len(kept) == MAX_SESSIONS
    assert {*kept} >= {*made[5:]}
    assert store.session(made[0].hash) is None
    late = make_session(anna, NOW - timedelta(days=1))  # from a machine whose clock is behind
    assert store.add_session(late, version=1)
    assert store.session(late.hash) == late
    assert len(store.sessions(anna.id)) == MAX_SESSIONS
    assert store.sessions(bert.id) == [other]


def test_tokens_belong_to_their_account(store: AccountStore) -> None:
    anna, bert = store.add(make_account()), store.add(make_account())
    tokens = [make_token(anna, NOW + timedelta(seconds=n)) for n in (2, 0, 1)]
    tokens[0] = replace(tokens[0], scopes=frozenset(Scope), name='"VLC" – \N{TELEVISION}')
    tokens[1] = replace(tokens[1], scopes=frozenset())
    for token in tokens:
        store.add_token(token)
        assert store.token(token.hash) == token
    assert store.tokens(anna.id) == [tokens[0], tokens[2], tokens[1]]
    assert store.tokens(bert.id) == []
    for account, token_id in ((bert, tokens[0].id), (anna, "none"), (anna, "no\0ne")):
        with pytest.raises(UnknownAccount):
            store.remove_token(account.id, token_id)
    store.remove_token(anna.id, tokens[0].id)
    assert store.token(tokens[0].hash) is None
    store.remove_tokens(bert.id)
    assert len(store.tokens(anna.id)) == 2
    store.remove_tokens(anna.id)
    assert store.tokens(anna.id) == []


def test_links_belong_to_their_account(store: AccountStore) -> None:
    anna, bert = store.add(make_account()), store.add(make_account())
    links = [make_link(anna, created_at=NOW + timedelta(seconds=n), path="ü/" * n) for n in (2, 0, 1)]
    for link in links:
        store.add_link(link)
        assert store.link(link.id) == link
    assert store.links(anna.id) == [links[0], links[2], links[1]]
    for account, link_id in ((bert, links[0].id), (anna, "none"), (anna, "no\0ne")):
        with pytest.raises(UnknownAccount):
            store.remove_link(account.id, link_id)
    store.remove_link(anna.id, links[0].id)
    assert store.link(links[0].id) is None
    assert store.standing_links([link.id for link in links] + ["none"]) == {links[1].id, links[2].id}


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
        store.add_link(link)
    assert store.automatic_link(anna.id, "films", recursive=False, until=until) is None
    store.add_link(exact)
    assert store.automatic_link(anna.id, "films", recursive=False, until=until) == exact
    assert store.automatic_link(anna.id, "films", recursive=True, until=until) == others[1]
    assert store.automatic_link(anna.id, "", recursive=False, until=until) == others[2]
    assert store.automatic_link(bert.id, "films", recursive=False, until=until) == others[4]


# Signing keys


def test_add_signing_key_keeps_named_keys_newest_first(store: AccountStore) -> None:
    one, two, three = make_key(), make_key(), make_key()
    store.add_signing_key(one, keep=[])
    assert store.signing_keys() == [one]
    store.add_first_signing_key(make_key())
    assert store.signing_keys() == [one]
    store.add_signing_key(two, keep=[one.id])
    assert store.signing_keys() == [two, one]
    store.add_signing_key(three, keep=[two.id, "none"])
    assert store.signing_keys() == [three, two]


def test_at_least_one_signing_key_remains_when_added_concurrently(store: AccountStore) -> None:
    for _ in range(5):
        old = store.signing_keys()
        keys = [make_key() for _ in range(4)]
        race(*(lambda key=key: store.add_signing_key(key, keep=[]) for key in keys))
        found = store.signing_keys()
        assert found
        assert {*found} <= {*keys}
        assert not {*found} & {*old}


# Maintenance


def test_standing_returns_valid_items_in_bulk(store: AccountStore) -> None:
    accounts = [store.add(make_account()) for _ in range(4)]
    sessions = [make_session(account) for account in accounts]
    tokens = [make_token(account) for account in accounts]
    for session, token in zip(sessions, tokens, strict=True):
        store.add_session(session, version=1)
        store.add_token(token)
    queried: dict[str, Any] = {
        "accounts": [(account.id, 1) for account in accounts],
        "sessions": [session.hash for session in sessions],
        "tokens": [token.hash for token in tokens],
    }
    assert store.standing(**queried) == tuple(map(set, queried.values()))
    store.set_password(accounts[0].id, "new", version=1)
    store.set_disabled(accounts[1].id, True)
    store.leave(accounts[2].id)
    assert store.standing(**queried) == (
        {(accounts[3].id, 1)},
        {sessions[3].hash},
        {tokens[0].hash, tokens[1].hash, tokens[3].hash},
    )
    assert store.standing(accounts=[(accounts[0].id, 2)], sessions=[], tokens=[]) == (
        {(accounts[0].id, 2)},
        set(),
        set(),
    )
    assert store.standing(
        accounts=[("none", 1)] * 500, sessions=[f"{n}" for n in range(500)], tokens=["none"] * 500
    ) == (set(), set(), set())


def test_sweep_removes_only_expired_items(store: AccountStore) -> None:
    anna = store.add(make_account())
    second, day = timedelta(seconds=1), timedelta(days=1)
    over = [make_link(anna, expires_at=NOW), make_invite(timedelta()), make_session(anna, NOW, NOW - second)]
    over.append(make_session(anna, NOW - day - second))
    kept = [make_link(anna, expires_at=NOW + second), make_invite(second), make_session(anna, NOW - day)]
    for one in (*over, *kept):
        match one:
            case Link():
                store.add_link(one)
            case Invite():
                store.add_invite(one)
            case Session():
                store.add_session(one, version=1)
    store.sweep(now=NOW, seen_before=NOW, created_before=NOW - day)
    assert [*store.links(anna.id), *store.invites(), *store.sessions(anna.id)] == kept
    assert store.account(anna.id) == anna


def test_everything_persists_when_database_is_reopened(store: AccountStore, settings_of: Settings) -> None:
    anna = store.add(make_account(quota=7))
    session, token, link = make_session(anna), make_token(anna), make_link(anna)
    invite, key = make_invite(), make_key()
    store.add_session(session, version=1)
    store.add_token(token)
    store.add_link(link)
    store.add_invite(invite)
    store.add_signing_key(key, keep=[])
    with open_accounts(settings_of, create=False) as again:
        assert again.account_of(anna.email) == anna
        assert _stored(again, session, token, link) == [session, token, link]
        assert again.invites() == [invite]
        assert again.signing_keys() == [key]
        again.set_quota(anna.id, 8)
    assert store.account(anna.id) == replace(anna, quota=8)


# Lost connections


def test_change_succeeds_when_postgresql_commits_but_answer_is_lost(tmp_path: Path) -> None:
    with _connected_through_proxy(tmp_path) as (proxy, store):
        anna = store.add(make_account())
        proxy.loss = Loss.REPLY
        assert store.set_password(anna.id, "new", version=1)
        assert proxy.lost.is_set()
        assert store.account(anna.id) == replace(anna, password="new", version=2)


def test_store_is_unavailable_until_postgresql_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgresql, "OUTCOME_TIMEOUT_S", 0.2)
    with _connected_through_proxy(tmp_path) as (proxy, store):
        anna = store.add(make_account())
        proxy.loss, proxy.reachable = Loss.COMMIT, False
        with pytest.raises(StorageUnavailable):
            store.set_password(anna.id, "new", version=1)
        _assert_unavailable(store)
        proxy.reachable = True
        assert store.accounts(limit=9) == [anna]


@contextmanager
def _connected_through_proxy(tmp_path: Path) -> Iterator[tuple[LossyProxy, AccountStore]]:
    proxy = LossyProxy(postgres.shared().port)
    url = postgres.shared().new_library().replace(str(postgres.shared().port), str(proxy.port))
    settings = Settings(_env_file=None, files_dir=tmp_path / "files", database_url=url)
    try:
        with open_accounts(settings, create=True) as store:
            yield proxy, store
    finally:
        proxy.close()


def test_store_is_unavailable_until_killed_mongodb_returns() -> None:
    with mongod() as node:
        settings = Settings(_env_file=None, storage="gridfs", mongodb_url=node.url("library"))
        with open_accounts(settings, create=True) as store:
            anna = store.add(make_account())
            session = make_session(anna)
            assert store.add_session(session, version=1)
            node.kill()
            _assert_unavailable(store)
            node.restart()
            assert _retry_until_available(store.count) == 1
            assert store.account(anna.id) == anna
            assert store.session(session.hash) == session
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
        lambda: store.session("none"),
        lambda: store.leave("nobody"),
        lambda: store.login_limits.attempt([Bucket("key", 1, 60.0)]),
    ):
        with pytest.raises(StorageUnavailable):
            call()
