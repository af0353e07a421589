"""Who guesses passwords is told nothing, and soon has to wait; and what is no Authorization at all."""

import asyncio
import base64
import contextlib
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import argon2
import httpx
import pytest

from app.accounts import login_limits
from app.accounts.errors import TooManyAttempts, WrongCredentials
from app.accounts.login_limits import PER_ACCOUNT, PER_ADDRESS, PER_PAIR, WINDOW_S, Guesses, Throttle
from app.accounts.passwords import Passwords
from app.accounts.principals import Callers
from app.accounts.store import AccountStore
from app.accounts.workers import Workers
from app.database import open_accounts
from app.settings import Settings
from tests.http.accounts.conftest import NUMBERS, PASSWORD, AccountServer, User, basic, bearer, browser
from tests.support import each_backend

Browsers = Callable[[], httpx.Client]
CheckProblem = Callable[[httpx.Response, int], str]


def log_in(browser: httpx.Client, email: str, password: str) -> httpx.Response:
    return browser.post("/login", json={"email": email, "password": password})


class Counted:
    """Guesses, whose steps are taken one by one."""

    def __init__(self, store: AccountStore, runner: asyncio.Runner) -> None:
        self._guesses = Guesses(Throttle(store.attempts, self._ask))
        self._runner = runner
        self.asked = 0

    async def _ask(self, call: Callable[..., Any], *arguments: object) -> Any:
        self.asked += 1
        return call(*arguments)

    def guess(self, email: str, address: str) -> None:
        self._runner.run(self._guesses.guess(email, address))

    def was_right(self, email: str, address: str) -> None:
        self._runner.run(self._guesses.was_right(email, address))


@pytest.fixture
def new_store(tmp_path: Path) -> Iterator[AccountStore]:
    with open_accounts(Settings(_env_file=None, files_dir=tmp_path / "files"), create=True) as store:
        yield store


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture
def guesses(new_store: AccountStore, runner: asyncio.Runner) -> Counted:
    return Counted(new_store, runner)


# Brute force


@each_backend
def test_the_eleventh_wrong_password_is_not_looked_at_and_neither_is_the_right_one(
    user: User, other_user: User, new_browser: Browsers, check_problem: CheckProblem
) -> None:
    guesser, player = new_browser(), new_browser()
    headers = basic(user.email)
    assert player.get("/files", headers=headers).status_code == 200
    # However it is sent, and however the address is written.
    for number in range(5):
        assert log_in(guesser, user.email, f"wrong {number}").status_code == 401
        wrong = basic(user.email.upper(), f"wrong as well {number}")
        assert guesser.get("/files", headers=wrong).status_code == 401
    for password in ("the eleventh", PASSWORD):
        refused = log_in(guesser, user.email, password)
        check_problem(refused, 429)
        assert 1 <= int(refused.headers["retry-after"]) <= WINDOW_S
        assert "set-cookie" not in refused.headers
    form = {"email": user.email, "password": PASSWORD}
    page = guesser.post("/login", data=form, headers={"accept": "text/html"})
    assert page.status_code == 429
    assert page.headers["content-type"].startswith("text/html")
    assert int(page.headers["retry-after"]) >= 1
    assert guesser.get("/files", headers=basic(user.email, "x")).status_code == 429
    assert guesser.get("/files", headers=headers).status_code == 429, "though it is remembered elsewhere"
    # Others are not locked out: a player, the owner at another address, and the neighbour.
    assert player.get("/files", headers=headers).status_code == 200
    assert log_in(new_browser(), user.email, PASSWORD).status_code == 200
    assert log_in(guesser, other_user.email, PASSWORD).status_code == 200
    changing = {"password": "wrong", "new_password": "wrong again"}
    assert guesser.post("/account/password", json=changing, headers=user.headers).status_code == 429


def test_a_player_goes_on_while_somebody_beside_it_guesses(user: User, new_browser: Browsers) -> None:
    """With the password that was right a moment ago: its owner has it on the same line as the children."""
    line, headers = new_browser(), basic(user.email)
    assert line.get("/files", headers=headers).status_code == 200
    for number in range(PER_PAIR + 1):
        log_in(line, user.email, f"wrong {number}")
    assert log_in(line, user.email, "wrong").status_code == 429
    assert line.get("/files", headers=headers).status_code == 200


def test_who_is_right_is_not_counted(user: User, new_browser: Browsers) -> None:
    owner = new_browser()
    for _ in range(2 * PER_PAIR):
        assert log_in(owner, user.email, PASSWORD).status_code == 200


def test_who_is_right_is_not_counted_when_looked_at_either(guesses: Counted) -> None:
    for _ in range(2 * PER_ACCOUNT):
        guesses.guess("anna@example.org", "192.0.2.1")
        guesses.was_right("anna@example.org", "192.0.2.1")


def test_names_of_nobody_are_counted_as_those_of_accounts(new_browser: Browsers) -> None:
    """Or the limit would tell which there are."""
    guesser = new_browser()
    statuses = [log_in(guesser, "nobody@example.org", f"wrong {n}").status_code for n in range(PER_PAIR + 1)]
    assert statuses == [401] * PER_PAIR + [429]


@each_backend
def test_of_a_hundred_guesses_at_once_no_more_are_looked_at(
    account_server: AccountServer, user: User
) -> None:
    with browser(account_server.server) as guesser, ThreadPoolExecutor(20) as pool:
        found = pool.map(lambda n: log_in(guesser, user.email, f"wrong {n}").status_code, range(100))
        assert Counter(found) == {401: PER_PAIR, 429: 100 - PER_PAIR}
        assert log_in(guesser, user.email, PASSWORD).status_code == 429


def test_one_address_cannot_try_one_password_on_all_accounts(guesses: Counted) -> None:
    for number in range(PER_ADDRESS):
        guesses.guess(f"person-{number}@example.org", "192.0.2.1")
    with pytest.raises(TooManyAttempts):
        guesses.guess("another@example.org", "192.0.2.1")
    guesses.guess("another@example.org", "192.0.2.2")


def test_nobody_is_kept_out_where_they_have_been_by_guesses_from_many_addresses(guesses: Counted) -> None:
    guesses.guess("anna@example.org", "203.0.113.5")
    guesses.was_right("anna@example.org", "203.0.113.5")
    for number in range(PER_ACCOUNT):
        guesses.guess("anna@example.org", f"192.0.2.{number}")
    with pytest.raises(TooManyAttempts):
        guesses.guess("anna@example.org", "203.0.113.6")
    for _ in range(PER_PAIR):
        guesses.guess("anna@example.org", "203.0.113.5")
    with pytest.raises(TooManyAttempts):
        guesses.guess("anna@example.org", "203.0.113.5")


def test_a_password_is_the_same_from_every_keyboard() -> None:
    passwords = Passwords()
    assert passwords.match(passwords.hash("caf\u00e9 caf\u00e9"), "cafe\u0301 cafe\u0301")


def test_a_network_of_ipv6_is_one_address(guesses: Counted) -> None:
    """A home has 2⁶⁴ of them, at least."""
    for number in range(PER_PAIR):
        guesses.guess("anna@example.org", f"2001:db8:0:1::{number:x}")
    with pytest.raises(TooManyAttempts):
        guesses.guess("anna@example.org", "2001:db8:0:1:ffff::1")
    guesses.guess("anna@example.org", "2001:db8:0:2::1")
    for number in range(PER_PAIR):
        guesses.guess("anna@example.org", ["::ffff:192.0.2.1", "192.0.2.1"][number % 2])
    with pytest.raises(TooManyAttempts):
        guesses.guess("anna@example.org", "192.0.2.1")


def test_many_addresses_together_get_no_further_than_the_limit_of_the_account(guesses: Counted) -> None:
    for number in range(PER_ACCOUNT):
        guesses.guess("anna@example.org", f"192.0.2.{number}")
    with pytest.raises(TooManyAttempts):
        guesses.guess("anna@example.org", "198.51.100.1")


def test_who_has_to_wait_for_one_account_is_let_in_to_another(guesses: Counted) -> None:
    """A player with a password of before asks on and on, and the family is behind the same address."""
    for _ in range(PER_PAIR):
        guesses.guess("anna@example.org", "192.0.2.1")
    for _ in range(2 * PER_ADDRESS):
        with pytest.raises(TooManyAttempts):
            guesses.guess("anna@example.org", "192.0.2.1")
    guesses.guess("ben@example.org", "192.0.2.1")


def test_owners_who_wait_for_what_others_guessed_do_not_wait_for_their_own_tries(guesses: Counted) -> None:
    for number in range(PER_ACCOUNT):
        guesses.guess("anna@example.org", f"192.0.2.{number}")
    for _ in range(2 * PER_ADDRESS):
        with pytest.raises(TooManyAttempts) as refused:
            guesses.guess("anna@example.org", "198.51.100.1")
    assert refused.value.retry_after <= WINDOW_S / PER_ACCOUNT + 1
    guesses.guess("ben@example.org", "198.51.100.1")


def test_names_without_end_from_one_address_make_nobody_forget_what_was_tried(
    guesses: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(login_limits, "MAX_KEYS", 500)  # of twenty thousand the test takes seconds
    for _ in range(PER_PAIR):
        guesses.guess("anna@example.org", "192.0.2.1")
    for number in range(500 + PER_ADDRESS):
        with contextlib.suppress(TooManyAttempts):
            guesses.guess(f"person-{number}@example.org", "192.0.2.2")
    with pytest.raises(TooManyAttempts):
        guesses.guess("anna@example.org", "192.0.2.1")


def test_who_has_to_wait_and_goes_on_trying_is_no_work_for_the_database(guesses: Counted) -> None:
    for _ in range(PER_PAIR):
        guesses.guess("anna@example.org", "192.0.2.1")
    for _ in range(1000):
        with pytest.raises(TooManyAttempts):
            guesses.guess("anna@example.org", "192.0.2.1")
    assert guesses.asked == PER_PAIR + 1


def test_what_another_process_counted_counts_here(new_store: AccountStore, runner: asyncio.Runner) -> None:
    one, two = Counted(new_store, runner), Counted(new_store, runner)
    one.guess("ben@example.org", "203.0.113.5")
    one.was_right("ben@example.org", "203.0.113.5")
    for number in range(PER_ACCOUNT):
        (one, two)[number % 2].guess("ben@example.org", f"192.0.2.{number}")
    for counted in (one, two):
        with pytest.raises(TooManyAttempts):
            counted.guess("ben@example.org", "198.51.100.1")
        counted.guess("ben@example.org", "203.0.113.5")


def test_nobody_says_by_a_header_that_it_comes_from_elsewhere(user: User, new_browser: Browsers) -> None:
    guesser = new_browser()
    statuses = [
        guesser.post(
            "/login",
            json={"email": user.email, "password": f"wrong {number}"},
            headers={
                "x-forwarded-for": f"198.51.100.{number}",
                "forwarded": f"for=198.51.100.{number}",
                "x-real-ip": f"198.51.100.{number}",
            },
        ).status_code
        for number in range(PER_PAIR + 1)
    ]
    assert statuses[-1] == 429


def test_sign_ups_are_counted_by_address(
    account_server: AccountServer, new_browser: Browsers, check_problem: CheckProblem
) -> None:
    someone = new_browser()
    account_server.new_account(taken := f"taken-{next(NUMBERS)}@example.org")
    body = {"email": taken, "password": "not mine"}
    statuses = [someone.post("/sign-up", json=body).status_code for _ in range(21)]
    assert statuses == [409] * 20 + [429]
    refused = someone.post("/sign-up", json={**body, "email": f"new-{next(NUMBERS)}@example.org"})
    check_problem(refused, 429)
    assert 1 <= int(refused.headers["retry-after"]) <= 3600
    assert new_browser().post("/sign-up", json=body).status_code == 409


# Timing


@asynccontextmanager
async def callers(account_server: AccountServer) -> AsyncIterator[Callers]:
    """Those of the server, in this process: no network is in what is measured."""
    hashing, asking = Workers("hashing", threads=1, waiting=10), Workers("asking", threads=1, waiting=10)
    try:
        yield Callers(
            account_server.store,
            idle=timedelta(days=1),
            lifetime=timedelta(days=1),
            passwords=Passwords(),
            hashing=hashing,
            asking=asking,
        )
    finally:
        hashing.close()
        asking.close()


async def guess(callers: Callers, email: str, password: str) -> float:
    """The seconds that it takes to say no, to an address that never asked before."""
    number = next(NUMBERS)
    began = time.perf_counter()
    with pytest.raises(WrongCredentials):
        await callers.by_password(email, password, f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    return time.perf_counter() - began


@pytest.mark.anyio
async def test_to_say_no_takes_as_long_whether_there_is_such_an_account(
    account_server: AccountServer, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same is done, once: and so the medians are within a tenth of each other."""
    done: list[str] = []
    verify = argon2.PasswordHasher.verify

    def counted(self: argon2.PasswordHasher, known: str, password: Any) -> Any:
        done.append(repr(argon2.extract_parameters(known)))
        return verify(self, known, password)

    unknown, disabled = f"nobody-{next(NUMBERS)}@example.org", account_server.new_user()
    account_server.store.set_disabled(disabled.account.id, True)
    async with callers(account_server) as known:
        with monkeypatch.context() as patch:
            patch.setattr(argon2.PasswordHasher, "verify", counted)
            for email in (user.email, unknown, disabled.email, "no address", "\0", ""):
                for password in ("wrong password", "", "x" * 1025, "x" * 5000, "\0", PASSWORD + "\0"):
                    await guess(known, email, password)
            assert len(done) == 36, "one each"
            assert len({*done}) == 1, "of the same cost"
        there: list[float] = []
        not_there: list[float] = []
        ratio = 0.0
        for number in range(80):  # others may keep this machine busy
            pair = [(there, user.email), (not_there, f"nobody-{next(NUMBERS)}@example.org")]
            for times, email in pair if number % 2 else reversed(pair):
                times.append(await guess(known, email, f"wrong {number}"))
            ratio = statistics.median(there) / statistics.median(not_there)
            if number % 8 == 7 and 0.9 < ratio < 1.1:
                return
    raise AssertionError(f"The medians are as 1 to {ratio:.2f}.")


@pytest.mark.anyio
async def test_no_more_is_done_at_once_than_there_are_threads_for(
    account_server: AccountServer, user: User
) -> None:
    """And what waits is bounded: the rest is told so."""
    async with callers(account_server) as known:
        responses = await asyncio.gather(
            *(known.by_password(f"{n}@example.org", "wrong", f"10.9.0.{n}") for n in range(60)),
            return_exceptions=True,
        )
    kinds = Counter(type(response) for response in responses)
    assert set(kinds) == {WrongCredentials, TooManyAttempts}
    assert kinds[WrongCredentials] <= 11
    busy = [response.retry_after for response in responses if isinstance(response, TooManyAttempts)]
    assert {*busy} == {1}


@pytest.mark.anyio
async def test_a_password_that_was_right_is_remembered(
    account_server: AccountServer, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Players send it with each of a thousand requests; of those at once, too, one pays for all."""
    done: list[bool] = []
    verify = argon2.PasswordHasher.verify

    def counted(self: argon2.PasswordHasher, known: str, password: Any) -> Any:
        done.append(True)
        return verify(self, known, password)

    monkeypatch.setattr(argon2.PasswordHasher, "verify", counted)
    async with callers(account_server) as known:
        await asyncio.gather(*(known.by_password(user.email, PASSWORD, "10.8.0.1") for _ in range(50)))
        for _ in range(100):
            await known.by_password(user.email, PASSWORD, "10.8.0.1")
        assert len(done) == 1
        for _ in range(3):
            with pytest.raises(WrongCredentials):
                await known.by_password(user.email, PASSWORD + "x", "10.8.0.1")
        assert len(done) == 4, "a wrong one is not"


# What is no Authorization


def encoded(text: bytes) -> str:
    return base64.b64encode(text).decode()


def test_authorizations_that_make_no_sense(
    account_server: AccountServer,
    user: User,
    send_raw: Callable[..., httpx.Response],
    check_problem: CheckProblem,
    no_server_errors: None,
) -> None:
    right = f"{user.email}:{PASSWORD}".encode()
    secret = user.new_token()
    fields = [
        "",
        "Basic",
        "Basic ",
        "Basic !!!!",
        "Basic =",
        "Basic " + encoded(right)[:-3],
        "Basic " + encoded(right) + " x",
        "Basic " + encoded(right) + ", Basic " + encoded(right),
        "Basic " + encoded(user.email.encode()),
        "Basic " + encoded(b":"),
        "Basic " + encoded(b":" + PASSWORD.encode()),
        "Basic " + encoded(user.email.encode() + b":"),
        "Basic " + encoded(b"\xff\xfe:\xff"),
        "Basic " + encoded(right + b"\0"),
        "Basic " + encoded(right + b"\n"),
        "Basic " + encoded(user.email.encode() + b":" + b"x" * 1025),
        "Basic " + encoded(user.email.encode() + b"\0:" + PASSWORD.encode()),
        "Basic " + encoded(b"a" * 6000 + b":x"),
        "Basic " + "A" * 9000,
        "Basic " + encoded(right).replace("=", "") + "\xe9",
        "Bearer",
        "Bearer ",
        "Bearer " + secret[:-1],
        "Bearer " + secret + "A",
        "Bearer " + secret.removeprefix("skb_"),
        "Bearer " + secret.upper(),
        "Bearer " + user.session,
        "Bearer " + encoded(right),
        "Bearer \xe9\xff",
        "Bearer " + "x" * 9000,
        "Digest username=x",
        "Negotiate x",
        secret,
        encoded(right),
    ]
    for field in fields:
        response = send_raw("GET", "/files", {"Authorization": field})
        assert response.status_code == 401, (field[:60], response.text)
        check_problem(response, 401)
    # With a browser's cookie beside it, what is wrong is not passed over.
    assert send_raw("GET", "/files", {"Authorization": "Basic x", **user.headers}).status_code == 401


def test_two_authorizations_are_none(
    account_server: AccountServer, user: User, other_user: User, send_request: Any
) -> None:
    mine, others = (f"Authorization: {basic(one.email)['Authorization']}" for one in (user, other_user))
    assert send_request("GET", "/files", mine).status_code == 200
    for both in ((mine, others), (mine, mine), (mine, f"Authorization: Bearer {user.new_token()}")):
        assert send_request("GET", "/files", *both).status_code == 401


def test_a_huge_authorization_is_refused_before_it_is_read(
    account_server: AccountServer, send_request: Any
) -> None:
    assert send_request("GET", "/files", "Authorization: Basic " + "A" * (70 << 10)).status_code == 431


def test_schemes_are_of_any_case_and_passwords_may_have_colons(
    account_server: AccountServer, user: User
) -> None:
    assert ":" in PASSWORD
    token = bearer(user.new_token())["Authorization"].partition(" ")[2]
    password = basic(user.email)["Authorization"].partition(" ")[2]
    for field in (
        f"basic {password}",
        f"BASIC {password}",
        f"bAsIc  {password}",
        f"bearer {token}",
        f"BEARER {token}",
    ):
        assert account_server.request("GET", "/files", headers={"Authorization": field}).status_code == 200


def test_passwords_over_basic_are_utf_8(account_server: AccountServer) -> None:
    password = "ключ ☃ 🔑: é"
    user = account_server.new_user(password=Passwords().hash(password))
    assert account_server.request("GET", "/files", headers=basic(user.email, password)).status_code == 200
    latin = base64.b64encode(f"{user.email}:é".encode("latin-1")).decode()
    assert (
        account_server.request("GET", "/files", headers={"Authorization": f"Basic {latin}"}).status_code
        == 401
    )
