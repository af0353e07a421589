"""Login limits: wrong passwords reveal nothing and are limited; malformed Authorization fields are
rejected."""

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
from typing import Any, Literal

import argon2
import httpx
import pytest

from app.accounts.errors import TooManyAttempts, WrongCredentials
from app.accounts.login_limits import (
    MAX_WAITING,
    PER_ACCOUNT,
    PER_ADDRESS,
    PER_PAIR,
    SIGN_UPS,
    WINDOW_S,
    LoginLimits,
    RateLimiter,
)
from app.accounts.passwords import Passwords
from app.accounts.principals import Authenticator
from app.accounts.store import AccountStore
from app.database import open_accounts
from app.settings import Settings
from app.storage.workers import BoundedPool
from tests.http.accounts.conftest import (
    NUMBERS,
    PASSWORD,
    AccountServer,
    User,
    basic,
    bearer,
    browser,
    run_account_server,
)
from tests.support import NewLibrary, each_backend

Browsers = Callable[[], httpx.Client]
CheckProblem = Callable[[httpx.Response, int], str]


def log_in(browser: httpx.Client, email: str, password: str) -> httpx.Response:
    return browser.post("/login", json={"email": email, "password": password})


class CountedLimits:
    """Login limits whose database calls run in a test's own loop, and are counted."""

    def __init__(
        self, store: AccountStore, runner: asyncio.Runner, *, max_waiting: int = MAX_WAITING
    ) -> None:
        limiter = RateLimiter(store.login_limits, self._call, max_waiting=max_waiting)
        self._limits = LoginLimits(limiter)
        self._runner = runner
        self.calls = 0

    async def _call(self, function: Callable[..., Any], *arguments: object) -> Any:
        self.calls += 1
        return function(*arguments)

    def count_attempt(self, email: str, address: str) -> None:
        self._runner.run(self._limits.count_attempt(email, address))

    def record_success(self, email: str, address: str) -> None:
        self._runner.run(self._limits.record_success(email, address))


@pytest.fixture
def new_store(tmp_path: Path) -> Iterator[AccountStore]:
    with open_accounts(Settings(_env_file=None, files_dir=tmp_path / "files"), create=True) as store:
        yield store


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture
def limits(new_store: AccountStore, runner: asyncio.Runner) -> CountedLimits:
    return CountedLimits(new_store, runner)


# Brute force


def test_login_is_refused_after_ten_wrong_passwords_even_with_the_right_one(
    user: User, other_user: User, new_browser: Browsers, check_problem: CheckProblem
) -> None:
    guesser, player = new_browser(), new_browser()
    headers = basic(user.email)
    assert player.get("/files", headers=headers).status_code == 200
    # By form or Basic, and in any spelling of the address.
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
    assert guesser.get("/files", headers=headers).status_code == 429, (
        "although the right password is cached for another address"
    )
    # Not limited: a player, the owner at another address, and another account at this one.
    assert player.get("/files", headers=headers).status_code == 200
    assert log_in(new_browser(), user.email, PASSWORD).status_code == 200
    assert log_in(guesser, other_user.email, PASSWORD).status_code == 200
    changing = {"password": "wrong", "new_password": "wrong again"}
    assert guesser.post("/account/password", json=changing, headers=user.headers).status_code == 429


def test_cached_password_works_while_its_address_is_limited(user: User, new_browser: Browsers) -> None:
    """The owner's player may share its public address with a child who guesses passwords."""
    shared_address, headers = new_browser(), basic(user.email)
    assert shared_address.get("/files", headers=headers).status_code == 200
    for number in range(PER_PAIR + 1):
        log_in(shared_address, user.email, f"wrong {number}")
    assert log_in(shared_address, user.email, "wrong").status_code == 429
    assert shared_address.get("/files", headers=headers).status_code == 200


def test_successful_logins_are_not_counted(user: User, new_browser: Browsers) -> None:
    owner = new_browser()
    for _ in range(2 * PER_PAIR):
        assert log_in(owner, user.email, PASSWORD).status_code == 200


def test_login_limits_do_not_count_successful_attempts(limits: CountedLimits) -> None:
    for _ in range(2 * PER_ACCOUNT):
        limits.count_attempt("anna@example.org", "192.0.2.1")
        limits.record_success("anna@example.org", "192.0.2.1")


def test_unknown_account_is_limited_like_an_existing_one(new_browser: Browsers) -> None:
    """Otherwise the limit would reveal which accounts exist."""
    guesser = new_browser()
    statuses = [log_in(guesser, "unknown@example.org", f"wrong {n}").status_code for n in range(PER_PAIR + 1)]
    assert statuses == [401] * PER_PAIR + [429]


@each_backend
def test_concurrent_guesses_share_one_limit(account_server: AccountServer, user: User) -> None:
    with browser(account_server.server) as guesser, ThreadPoolExecutor(20) as pool:
        found = pool.map(lambda n: log_in(guesser, user.email, f"wrong {n}").status_code, range(100))
        assert Counter(found) == {401: PER_PAIR, 429: 100 - PER_PAIR}
        assert log_in(guesser, user.email, PASSWORD).status_code == 429


def test_address_is_limited_across_accounts(limits: CountedLimits) -> None:
    for number in range(PER_ADDRESS):
        limits.count_attempt(f"person-{number}@example.org", "192.0.2.1")
    with pytest.raises(TooManyAttempts):
        limits.count_attempt("another@example.org", "192.0.2.1")
    limits.count_attempt("another@example.org", "192.0.2.2")


def test_known_address_is_admitted_when_account_limit_is_reached(limits: CountedLimits) -> None:
    limits.count_attempt("anna@example.org", "203.0.113.5")
    limits.record_success("anna@example.org", "203.0.113.5")
    for number in range(PER_ACCOUNT):
        limits.count_attempt("anna@example.org", f"192.0.2.{number}")
    with pytest.raises(TooManyAttempts):
        limits.count_attempt("anna@example.org", "203.0.113.6")
    for _ in range(PER_PAIR):
        limits.count_attempt("anna@example.org", "203.0.113.5")
    with pytest.raises(TooManyAttempts):
        limits.count_attempt("anna@example.org", "203.0.113.5")


def test_password_matches_in_any_unicode_normalization() -> None:
    passwords = Passwords()
    assert passwords.match(passwords.hash("caf\u00e9 caf\u00e9"), "cafe\u0301 cafe\u0301")


def test_ipv6_network_counts_as_one_address(tmp_path: Path, new_library: NewLibrary) -> None:
    """A home network has at least 2⁶⁴ addresses."""
    settings = {"trusted_proxies": "127.0.0.1"}
    with run_account_server(tmp_path, new_library(), **settings) as account_server:
        user = account_server.new_user()

        def status(address: str, headers: dict[str, str]) -> int:
            headers = {**headers, "x-forwarded-for": address}
            return account_server.request("GET", "/files", headers=headers).status_code

        wrong = basic(user.email, "wrong")
        for number in range(PER_PAIR):
            assert status(f"2001:db8:0:1::{number:x}", wrong) == 401
        assert status("2001:db8:0:1:ffff::1", wrong) == 429
        assert status("2001:db8:0:2::1", basic(user.email)) == 200
        for number in range(PER_PAIR):
            assert status(["::ffff:192.0.2.1", "192.0.2.1"][number % 2], wrong) == 401
        assert status("192.0.2.1", wrong) == 429
        # Sign-ups have a limit of their own, by the same networks.
        body = {"email": user.email, "password": "not mine"}
        for number in range(SIGN_UPS + 1):
            headers = {"x-forwarded-for": f"2001:db8:0:1::{number:x}"}
            signing_up = account_server.request("POST", "/sign-up", json=body, headers=headers)
            assert signing_up.status_code == (409 if number < SIGN_UPS else 429)


def test_account_limit_applies_across_addresses(limits: CountedLimits) -> None:
    for number in range(PER_ACCOUNT):
        limits.count_attempt("anna@example.org", f"192.0.2.{number}")
    with pytest.raises(TooManyAttempts):
        limits.count_attempt("anna@example.org", "198.51.100.1")


def test_refused_attempts_do_not_count_against_address(limits: CountedLimits) -> None:
    """A player with an outdated password retries for ever, and the family shares its address."""
    for _ in range(PER_PAIR):
        limits.count_attempt("anna@example.org", "192.0.2.1")
    for _ in range(2 * PER_ADDRESS):
        with pytest.raises(TooManyAttempts):
            limits.count_attempt("anna@example.org", "192.0.2.1")
    limits.count_attempt("ben@example.org", "192.0.2.1")


def test_attempts_refused_by_account_limit_are_not_counted(limits: CountedLimits) -> None:
    for number in range(PER_ACCOUNT):
        limits.count_attempt("anna@example.org", f"192.0.2.{number}")
    for _ in range(2 * PER_ADDRESS):
        with pytest.raises(TooManyAttempts) as refused:
            limits.count_attempt("anna@example.org", "198.51.100.1")
    assert refused.value.retry_after <= WINDOW_S / PER_ACCOUNT + 1
    limits.count_attempt("ben@example.org", "198.51.100.1")


def test_guesses_stay_counted_when_one_address_tries_endless_accounts(
    new_store: AccountStore, runner: asyncio.Runner
) -> None:
    limits = CountedLimits(new_store, runner, max_waiting=500)  # twenty thousand would take seconds
    for _ in range(PER_PAIR):
        limits.count_attempt("anna@example.org", "192.0.2.1")
    for number in range(500 + PER_ADDRESS):
        with contextlib.suppress(TooManyAttempts):
            limits.count_attempt(f"person-{number}@example.org", "192.0.2.2")
    with pytest.raises(TooManyAttempts):
        limits.count_attempt("anna@example.org", "192.0.2.1")


def test_refused_attempts_cause_no_database_calls(limits: CountedLimits) -> None:
    for _ in range(PER_PAIR):
        limits.count_attempt("anna@example.org", "192.0.2.1")
    for _ in range(1000):
        with pytest.raises(TooManyAttempts):
            limits.count_attempt("anna@example.org", "192.0.2.1")
    assert limits.calls == PER_PAIR + 1


def test_limits_are_shared_between_processes(new_store: AccountStore, runner: asyncio.Runner) -> None:
    one, two = CountedLimits(new_store, runner), CountedLimits(new_store, runner)
    one.count_attempt("ben@example.org", "203.0.113.5")
    one.record_success("ben@example.org", "203.0.113.5")
    for number in range(PER_ACCOUNT):
        (one, two)[number % 2].count_attempt("ben@example.org", f"192.0.2.{number}")
    for limits in (one, two):
        with pytest.raises(TooManyAttempts):
            limits.count_attempt("ben@example.org", "198.51.100.1")
        limits.count_attempt("ben@example.org", "203.0.113.5")


def test_forwarded_headers_of_client_do_not_change_its_address(user: User, new_browser: Browsers) -> None:
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


def test_sign_ups_are_limited_by_address(
    account_server: AccountServer, new_browser: Browsers, check_problem: CheckProblem
) -> None:
    anonymous = new_browser()
    account_server.new_account(taken := f"taken-{next(NUMBERS)}@example.org")
    body = {"email": taken, "password": "not mine"}
    statuses = [anonymous.post("/sign-up", json=body).status_code for _ in range(21)]
    assert statuses == [409] * 20 + [429]
    refused = anonymous.post("/sign-up", json={**body, "email": f"new-{next(NUMBERS)}@example.org"})
    check_problem(refused, 429)
    assert 1 <= int(refused.headers["retry-after"]) <= 3600
    assert new_browser().post("/sign-up", json=body).status_code == 409


# Timing


@asynccontextmanager
async def authenticator(
    account_server: AccountServer, new_hasher: type[argon2.PasswordHasher] = argon2.PasswordHasher
) -> AsyncIterator[Authenticator]:
    """Run authentication in this process, so that timings contain no network."""

    def refuse() -> TooManyAttempts:
        return TooManyAttempts("The queue is full.", 1)

    hashing = BoundedPool(1, "hashing", max_waiting=10, refuse=refuse)
    store_calls = BoundedPool(1, "store", max_waiting=10, refuse=refuse)
    try:
        yield Authenticator(
            account_server.store,
            idle=timedelta(days=1),
            lifetime=timedelta(days=1),
            passwords=Passwords(new_hasher),
            run_hash=hashing.start,
            run_call=store_calls.start,
        )
    finally:
        hashing.close()
        store_calls.close()


def counting_hasher(hashed: list[str]) -> type[argon2.PasswordHasher]:
    """Return a class that appends the cost of each hash that it compares with a password."""

    class CountingHasher(argon2.PasswordHasher):
        def verify(self, hash: str | bytes, password: str | bytes) -> Literal[True]:  # noqa: A002  # argon2's name
            hashed.append(repr(argon2.extract_parameters(str(hash))))
            return super().verify(hash, password)

    return CountingHasher


async def failed_login_s(authenticator: Authenticator, email: str, password: str) -> float:
    """Return the seconds that a failed login takes, from an unused address."""
    number = next(NUMBERS)
    began = time.perf_counter()
    with pytest.raises(WrongCredentials):
        await authenticator.by_password(
            email, password, f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
        )
    return time.perf_counter() - began


@pytest.mark.anyio
async def test_failed_login_takes_equal_time_for_unknown_account(
    account_server: AccountServer, user: User
) -> None:
    """Each failed login hashes once, so the medians differ by less than a tenth."""
    hashed: list[str] = []
    unknown, disabled = f"unknown-{next(NUMBERS)}@example.org", account_server.new_user()
    account_server.store.set_disabled(disabled.account.id, True)
    async with authenticator(account_server, counting_hasher(hashed)) as authentication:
        for email in (user.email, unknown, disabled.email, "no address", "\0", ""):
            for password in ("wrong password", "", "x" * 1025, "x" * 5000, "\0", PASSWORD + "\0"):
                await failed_login_s(authentication, email, password)
        assert len(hashed) == 36, "one hash each"
        assert len({*hashed}) == 1, "of equal cost"
        existing_times: list[float] = []
        unknown_times: list[float] = []
        ratio = 0.0
        for number in range(80):  # other processes may slow this machine down
            pair = [(existing_times, user.email), (unknown_times, f"unknown-{next(NUMBERS)}@example.org")]
            for times, email in pair if number % 2 else reversed(pair):
                times.append(await failed_login_s(authentication, email, f"wrong {number}"))
            ratio = statistics.median(existing_times) / statistics.median(unknown_times)
            if number % 8 == 7 and 0.9 < ratio < 1.1:
                return
    raise AssertionError(f"The medians are as 1 to {ratio:.2f}.")


@pytest.mark.anyio
async def test_password_checks_are_bounded_by_threads(account_server: AccountServer, user: User) -> None:
    """The queue is bounded too; attempts beyond it are refused."""
    async with authenticator(account_server) as authentication:
        responses = await asyncio.gather(
            *(authentication.by_password(f"{n}@example.org", "wrong", f"10.9.0.{n}") for n in range(60)),
            return_exceptions=True,
        )
    kinds = Counter(type(response) for response in responses)
    assert set(kinds) == {WrongCredentials, TooManyAttempts}
    assert kinds[WrongCredentials] <= 11
    busy = [response.retry_after for response in responses if isinstance(response, TooManyAttempts)]
    assert {*busy} == {1}


@pytest.mark.anyio
async def test_right_password_is_cached(account_server: AccountServer, user: User) -> None:
    """Players send the password with every request; of concurrent requests, too, only one hashes."""
    hashed: list[str] = []
    async with authenticator(account_server, counting_hasher(hashed)) as authentication:
        await asyncio.gather(
            *(authentication.by_password(user.email, PASSWORD, "10.8.0.1") for _ in range(50))
        )
        for _ in range(100):
            await authentication.by_password(user.email, PASSWORD, "10.8.0.1")
        assert len(hashed) == 1
        for _ in range(3):
            with pytest.raises(WrongCredentials):
                await authentication.by_password(user.email, PASSWORD + "x", "10.8.0.1")
        assert len(hashed) == 4, "a wrong password is not cached"


# Malformed Authorization fields


def encoded(text: bytes) -> str:
    return base64.b64encode(text).decode()


def test_malformed_authorization_is_rejected(
    account_server: AccountServer,
    user: User,
    send_raw: Callable[..., httpx.Response],
    check_problem: CheckProblem,
    no_server_errors: None,
) -> None:
    right = f"{user.email}:{PASSWORD}".encode()
    secret = user.new_token()
    invalid_fields = [
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
    for field in invalid_fields:
        response = send_raw("GET", "/files", {"Authorization": field})
        assert response.status_code == 401, (field[:60], response.text)
        check_problem(response, 401)
    # A valid cookie does not make up for an invalid Authorization.
    assert send_raw("GET", "/files", {"Authorization": "Basic x", **user.headers}).status_code == 401


def test_two_authorizations_are_rejected(
    account_server: AccountServer, user: User, other_user: User, send_request: Any
) -> None:
    mine, others = (f"Authorization: {basic(one.email)['Authorization']}" for one in (user, other_user))
    assert send_request("GET", "/files", mine).status_code == 200
    for both in ((mine, others), (mine, mine), (mine, f"Authorization: Bearer {user.new_token()}")):
        assert send_request("GET", "/files", *both).status_code == 401


def test_huge_authorization_is_refused(account_server: AccountServer, send_request: Any) -> None:
    assert send_request("GET", "/files", "Authorization: Basic " + "A" * (70 << 10)).status_code == 431


def test_authorization_scheme_ignores_case_and_password_may_contain_colon(
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


def test_basic_password_is_decoded_as_utf_8(account_server: AccountServer) -> None:
    password = "ключ ☃ 🔑: é"
    user = account_server.new_user(password=Passwords().hash(password))
    assert account_server.request("GET", "/files", headers=basic(user.email, password)).status_code == 200
    latin = base64.b64encode(f"{user.email}:é".encode("latin-1")).decode()
    assert (
        account_server.request("GET", "/files", headers={"Authorization": f"Basic {latin}"}).status_code
        == 401
    )
