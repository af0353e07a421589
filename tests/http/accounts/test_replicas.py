"""Two servers over one library are one to those who use them: what the one did, counted or ended holds at the
other."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import pytest

from app.accounts.factories import new_key
from app.accounts.login_limits import PER_PAIR, SIGN_UPS
from tests.http.accounts.conftest import (
    NUMBERS,
    PASSWORD,
    AccountServer,
    User,
    basic,
    bearer,
    request_once,
    run_account_server,
)
from tests.http.accounts.test_leaving import files_beneath
from tests.http.accounts.test_sockets import POLICY_VIOLATION, socket
from tests.support import NewLibrary, noise
from tests.support.together import Outcomes, Together

QUOTA = 1_000_000
NEW = "another good password"
CheckProblem = Callable[[httpx.Response, int], str]


# Processes of one machine share locks of the system, which the tests of leases try over SQLite, too.
pytestmark = pytest.mark.backends(
    pytest.param("filesystem", marks=pytest.mark.campaign), "postgresql", "gridfs"
)


@pytest.fixture(scope="module")
def replicas(
    tmp_path_factory: pytest.TempPathFactory, new_library: NewLibrary
) -> Iterator[tuple[AccountServer, AccountServer]]:
    library, folder = new_library(), tmp_path_factory.mktemp("replicas")
    shared = {"files_dir": folder / "files", "scan_interval": 1}
    with ExitStack() as stack:
        one = stack.enter_context(run_account_server(folder / "one", library, **shared))
        one.new_user("admin@example.org")
        yield one, stack.enter_context(run_account_server(folder / "two", library, **shared))


waiting = Together("waiting")
"""The servers look anew every so often, and these wait for that: each with accounts of its own."""


@pytest.fixture(scope="module", name="waiting")
def begun(
    request: pytest.FixtureRequest, replicas: tuple[AccountServer, AccountServer]
) -> Iterator[Outcomes]:
    with ExitStack() as stack:

        def given(name: str) -> tuple[AccountServer, ...]:
            return tuple(account_server.for_thread(stack) for account_server in replicas)

        yield stack.enter_context(waiting.begun(request, given))


@pytest.fixture
def one(replicas: tuple[AccountServer, AccountServer]) -> AccountServer:
    return replicas[0]


@pytest.fixture
def two(replicas: tuple[AccountServer, AccountServer]) -> AccountServer:
    return replicas[1]


@pytest.fixture
def account_server(one: AccountServer) -> AccountServer:
    return one


def at(two: AccountServer, user: User, method: str, target: str, **options: Any) -> httpx.Response:
    """A request of somebody's browser to the other server."""
    headers = {**two.cookie(user.session), **options.pop("headers", {})}
    return request_once(two.http, method, target, headers=headers, **options)


def test_what_the_one_did_the_other_shows_at_once(user: User, two: AccountServer) -> None:
    for number in range(4):
        data = noise(1000) + b"%d" % number
        user.put("new/a.mp4", data)
        assert at(two, user, "GET", "/files/new/a.mp4").content == data
        assert at(two, user, "GET", "/account").json()["used"] == len(data)
        again = at(two, user, "PUT", "/files/new/a.mp4", content=data[:-1])
        assert again.status_code == 204
        assert user.request("GET", "/files/new/a.mp4").headers["etag"] == again.headers["etag"]
        moved = user.request(
            "PATCH",
            "/files/new/a.mp4",
            json={"filename": "b.mkv"},
            headers={"content-type": "application/merge-patch+json"},
        )
        assert moved.status_code == 200
        listed = at(two, user, "GET", "/files?folder=new").json()["items"]
        assert [item["path"] for item in listed] == ["new/b.mkv"]
        assert at(two, user, "HEAD", "/files/new/b.mkv").headers["content-type"] == "video/x-matroska"
        assert at(two, user, "HEAD", "/files/new/a.mp4").status_code == 404
        assert at(two, user, "DELETE", "/files/new/b.mkv").status_code == 204
        assert user.content("new/b.mkv") is None
        assert user.paths() == []


def test_two_uploads_never_have_more_than_the_quota_together(one: AccountServer, two: AccountServer) -> None:
    """Each server has let its own in, and looks again when it stores it."""
    for _ in range(4):
        user = one.new_user(quota=QUOTA)
        both = threading.Barrier(2)

        def body(both: threading.Barrier) -> Iterator[bytes]:
            yield noise(600_000)
            both.wait(10)

        def put(account_server: AccountServer, headers: dict[str, str], both: threading.Barrier) -> int:
            with account_server.server.client(headers=headers) as http:
                return http.put(f"/files/{id(account_server)}.mp4", content=body(both)).status_code

        with ThreadPoolExecutor(2) as pool:
            found = [
                pool.submit(put, account_server, account_server.cookie(user.session), both)
                for account_server in (one, two)
            ]
            assert Counter(one.result() for one in found) == {201: 1, 507: 1}
        assert user.request("GET", "/account").json()["used"] == 600_000


@contextmanager
def browsers(one: AccountServer, two: AccountServer) -> Iterator[tuple[httpx.Client, httpx.Client]]:
    """The same one of somebody's, at an address where nobody was before."""
    address = f"127.2.{next(NUMBERS) % 250}.1"
    with ExitStack() as stack:
        first, second = (
            stack.enter_context(
                account_server.server.client(
                    transport=httpx.HTTPTransport(local_address=address, verify=False)
                )
            )
            for account_server in (one, two)
        )
        yield first, second


def test_guesses_are_counted_together(
    one: AccountServer, two: AccountServer, user: User, check_problem: CheckProblem
) -> None:
    with browsers(one, two) as both, browsers(one, two) as new_browser:
        for number in range(PER_PAIR):
            guess = {"email": user.email, "password": f"wrong {number}"}
            assert both[number % 2].post("/login", json=guess).status_code == 401
        right = {"email": user.email, "password": PASSWORD}
        for http in both:
            check_problem(http.post("/login", json=right), 429)
            assert http.get("/files", headers=basic(user.email)).status_code == 429
        assert new_browser[1].post("/login", json=right).status_code == 200


def test_sign_ups_are_counted_together(one: AccountServer, two: AccountServer) -> None:
    one.new_account(taken := f"taken-{next(NUMBERS)}@example.org")
    body = {"email": taken, "password": "not mine"}
    with browsers(one, two) as both:
        statuses = [both[n % 2].post("/sign-up", json=body).status_code for n in range(SIGN_UPS + 2)]
    assert statuses == [409] * SIGN_UPS + [429] * 2


@waiting
def test_what_the_one_ended_is_over_at_the_other(one: AccountServer, two: AccountServer) -> None:
    """All at once, for it takes one wait; and WebSockets that are open there."""
    out, changed, revoked, disabled, unshared = (one.new_user() for _ in range(5))
    for user in (out, changed, revoked, disabled, unshared):
        user.put("film.mp4")
    token, link = revoked.new_token(), unshared.new_link("film.mp4")
    token_id = one.request("GET", "/account/tokens", headers=revoked.headers).json()["items"][0]["id"]
    shown = {
        "a login": two.cookie(out.session),
        "a login of before": two.cookie(changed.session),
        "a password of before": basic(changed.email),
        "a token": bearer(token),
        "an account": two.cookie(disabled.session),
    }

    def let_in() -> set[str]:
        found = {
            name
            for name, headers in shown.items()
            if two.request("GET", "/files/film.mp4", headers=headers).status_code == 200
        }
        return found | ({"a link"} if two.open_link(_path(link["url"])).status_code == 200 else set())

    assert let_in() == {*shown, "a link"}
    with ExitStack() as stack:
        listening = [stack.enter_context(socket(two, "/events", headers)) for headers in shown.values()]
        for listener in listening:
            assert listener.json() == {"type": "resync"}
        assert out.request("POST", "/logout").status_code in (200, 204, 303)
        changing = {"password": PASSWORD, "new_password": NEW}
        assert changed.request("POST", "/account/password", json=changing).status_code in (200, 204)
        assert revoked.request("DELETE", f"/account/tokens/{token_id}").status_code == 204
        one.store.set_disabled(disabled.account.id, True)
        assert unshared.request("DELETE", f"/account/links/{link['id']}").status_code == 204
        ended = time.monotonic()
        assert two.request("GET", "/files", headers=basic(changed.email, NEW)).status_code == 200
        while let_in():
            assert time.monotonic() < ended + 5, let_in()
            time.sleep(0.2)
        for listener in listening:
            assert listener.close_code() == POLICY_VIOLATION
        assert time.monotonic() < ended + 8


def _path(url: str) -> str:
    found = httpx.URL(url)
    return f"{found.path}?{found.query.decode()}"


@waiting
def test_a_link_that_the_one_signed_opens_at_the_other(one: AccountServer, two: AccountServer) -> None:
    """At once, also when it was signed with a key that is new."""
    user = one.new_user()
    user.put("film.mp4", b"shared")
    first = _path(user.new_link("film.mp4")["url"])
    assert two.open_link(first).content == b"shared"
    time.sleep(2.1)  # the one has to look which keys there are
    altered = first.replace("link=", "link=x")
    assert two.open_link(altered).status_code == 403
    last = [key.id for key in one.store.signing_keys()[:1]]
    one.store.add_signing_key(new_key(), keep=last)
    link = _path(user.new_link("film.mp4")["url"])
    assert two.open_link(link).content == b"shared"
    assert two.open_link(first).content == b"shared"
    assert two.open_link(altered).status_code == 403


def test_an_account_that_leaves_leaves_no_file_behind_that_came_through_the_other(
    one: AccountServer, two: AccountServer
) -> None:
    leaver = one.new_user()
    leaver.put("film.mp4")
    gone, busy = threading.Event(), threading.Barrier(3)

    def slowly() -> Iterator[bytes]:
        yield noise(1000)
        assert gone.wait(29)
        yield b"end"

    def upload(number: int) -> Counter[int]:
        """One after the other, until it is refused; or one that ends when the account is gone."""
        found: Counter[int] = Counter()
        account_server = (one, two)[number % 2]
        with account_server.server.client(headers=account_server.cookie(leaver.session)) as http:
            if number >= 2:
                return Counter([http.put(f"/files/slow {number}.mp4", content=slowly()).status_code])
            for turn in range(1000):
                status = http.put(f"/files/{number}/{turn}.mp4", content=noise(1000)).status_code
                found[status] += 1
                if turn == 0:
                    busy.wait(20)
                if status != 201:
                    break
        return found

    with ThreadPoolExecutor(4) as pool:
        uploads = [pool.submit(upload, number) for number in range(4)]
        busy.wait(20)
        assert leaver.request("POST", "/account/delete", json={"password": PASSWORD}).status_code == 204
        try:
            ends = time.monotonic() + 28
            while one.store.account(leaver.account.id) is not None:
                assert time.monotonic() < ends
                time.sleep(0.02)
        finally:
            gone.set()
        quick, slow = [upload.result() for upload in uploads[:2]], [one.result() for one in uploads[2:]]
    for found in quick:
        assert found[201] > 0
        assert found[401] == 1
        assert set(found) == {201, 401}
    assert slow == [{401: 1}] * 2
    assert files_beneath(one.server, leaver.account.library) == []
    assert "Traceback" not in one.server.log() + two.server.log()


@waiting
def test_one_of_the_two_scans(one: AccountServer, two: AccountServer) -> None:
    def scans(account_server: AccountServer) -> float:
        lines = account_server.http.get("/metrics").text.splitlines()
        return sum(float(line.split()[1]) for line in lines if line.startswith("seekable_scans_total{"))

    before = scans(one), scans(two)
    ends = time.monotonic() + 20
    while (now := (scans(one), scans(two))) == before:
        assert time.monotonic() < ends
        time.sleep(0.1)
    assert 0 in now
