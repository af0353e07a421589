"""Two servers over one library behave like one: changes, counts and revocations apply to both."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import pytest

from app.accounts.login_limits import PER_PAIR, SIGN_UPS
from app.accounts.models import new_signing_key
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
from tests.http.accounts.test_account_deletion import stored_paths
from tests.http.accounts.test_sockets import POLICY_VIOLATION, open_socket
from tests.support import NewLibrary, noise
from tests.support.together import Outcomes, Together

QUOTA = 1_000_000
NEW_PASSWORD = "another good password"
CheckProblem = Callable[[httpx.Response, int], str]


# On one machine the file backend shares flock leases, which the lease tests cover on SQLite.
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
        primary = stack.enter_context(run_account_server(folder / "one", library, **shared))
        primary.new_user("admin@example.org")
        yield primary, stack.enter_context(run_account_server(folder / "two", library, **shared))


concurrent = Together("waiting")
"""Tests that wait for the poll of the servers run at the same time, each with its own accounts."""


@pytest.fixture(scope="module", name="waiting")
def concurrent_outcomes(
    request: pytest.FixtureRequest, replicas: tuple[AccountServer, AccountServer]
) -> Iterator[Outcomes]:
    with ExitStack() as stack:

        def server_arguments(name: str) -> tuple[AccountServer, ...]:
            return tuple(account_server.for_thread(stack) for account_server in replicas)

        yield stack.enter_context(concurrent.begun(request, server_arguments))


@pytest.fixture
def primary(replicas: tuple[AccountServer, AccountServer]) -> AccountServer:
    return replicas[0]


@pytest.fixture
def replica(replicas: tuple[AccountServer, AccountServer]) -> AccountServer:
    return replicas[1]


@pytest.fixture
def account_server(primary: AccountServer) -> AccountServer:
    return primary


def request_replica(
    replica: AccountServer, user: User, method: str, target: str, **options: Any
) -> httpx.Response:
    """Send a request with the session of a user to the other server."""
    headers = {**replica.cookie(user.session), **options.pop("headers", {})}
    return request_once(replica.http, method, target, headers=headers, **options)


def test_change_is_visible_on_other_server_immediately(user: User, replica: AccountServer) -> None:
    for number in range(4):
        data = noise(1000) + b"%d" % number
        user.put("new/a.mp4", data)
        assert request_replica(replica, user, "GET", "/files/new/a.mp4").content == data
        assert request_replica(replica, user, "GET", "/account").json()["used"] == len(data)
        again = request_replica(replica, user, "PUT", "/files/new/a.mp4", content=data[:-1])
        assert again.status_code == 204
        assert user.request("GET", "/files/new/a.mp4").headers["etag"] == again.headers["etag"]
        moved = user.request(
            "PATCH",
            "/files/new/a.mp4",
            json={"filename": "b.mkv"},
            headers={"content-type": "application/merge-patch+json"},
        )
        assert moved.status_code == 200
        listed = request_replica(replica, user, "GET", "/files?folder=new").json()["items"]
        assert [item["path"] for item in listed] == ["new/b.mkv"]
        assert (
            request_replica(replica, user, "HEAD", "/files/new/b.mkv").headers["content-type"]
            == "video/x-matroska"
        )
        assert request_replica(replica, user, "HEAD", "/files/new/a.mp4").status_code == 404
        assert request_replica(replica, user, "DELETE", "/files/new/b.mkv").status_code == 204
        assert user.content("new/b.mkv") is None
        assert user.paths() == []


def test_concurrent_uploads_to_both_servers_never_exceed_quota(
    primary: AccountServer, replica: AccountServer
) -> None:
    """Each server admits its upload, and checks the quota again at the commit."""
    for _ in range(4):
        user = primary.new_user(quota=QUOTA)
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
                for account_server in (primary, replica)
            ]
            assert Counter(upload.result() for upload in found) == {201: 1, 507: 1}
        assert user.request("GET", "/account").json()["used"] == 600_000


@contextmanager
def browsers(primary: AccountServer, replica: AccountServer) -> Iterator[tuple[httpx.Client, httpx.Client]]:
    """Open a client of each server at the same, unused address."""
    address = f"127.2.{next(NUMBERS) % 250}.1"
    with ExitStack() as stack:
        first, second = (
            stack.enter_context(
                account_server.server.client(
                    transport=httpx.HTTPTransport(local_address=address, verify=False)
                )
            )
            for account_server in (primary, replica)
        )
        yield first, second


def test_login_limits_are_shared(
    primary: AccountServer, replica: AccountServer, user: User, check_problem: CheckProblem
) -> None:
    with browsers(primary, replica) as both, browsers(primary, replica) as at_other_address:
        for number in range(PER_PAIR):
            guess = {"email": user.email, "password": f"wrong {number}"}
            assert both[number % 2].post("/login", json=guess).status_code == 401
        right = {"email": user.email, "password": PASSWORD}
        for http in both:
            check_problem(http.post("/login", json=right), 429)
            assert http.get("/files", headers=basic(user.email)).status_code == 429
        assert at_other_address[1].post("/login", json=right).status_code == 200


def test_sign_up_limits_are_shared(primary: AccountServer, replica: AccountServer) -> None:
    primary.new_account(taken := f"taken-{next(NUMBERS)}@example.org")
    body = {"email": taken, "password": "not mine"}
    with browsers(primary, replica) as both:
        statuses = [both[n % 2].post("/sign-up", json=body).status_code for n in range(SIGN_UPS + 2)]
    assert statuses == [409] * SIGN_UPS + [429] * 2


@concurrent
def test_revocation_on_one_server_ends_access_on_other(
    primary: AccountServer, replica: AccountServer
) -> None:
    """WebSockets of the other server close too. One wait covers all cases."""
    logged_out, changed, revoked, disabled, unshared = (primary.new_user() for _ in range(5))
    for user in (logged_out, changed, revoked, disabled, unshared):
        user.put("film.mp4")
    token, link = revoked.new_token(), unshared.new_link("film.mp4")
    token_id = primary.request("GET", "/account/tokens", headers=revoked.headers).json()["items"][0]["id"]
    credentials = {
        "a login": replica.cookie(logged_out.session),
        "a login of before": replica.cookie(changed.session),
        "a password of before": basic(changed.email),
        "a token": bearer(token),
        "an account": replica.cookie(disabled.session),
    }

    def accepted() -> set[str]:
        found = {
            name
            for name, headers in credentials.items()
            if replica.request("GET", "/files/film.mp4", headers=headers).status_code == 200
        }
        return found | ({"a link"} if replica.open_link(_path(link["url"])).status_code == 200 else set())

    assert accepted() == {*credentials, "a link"}
    with ExitStack() as stack:
        listening = [
            stack.enter_context(open_socket(replica, "/events", headers)) for headers in credentials.values()
        ]
        for listener in listening:
            assert listener.json() == {"type": "resync"}
        assert logged_out.request("POST", "/logout").status_code in (200, 204, 303)
        changing = {"password": PASSWORD, "new_password": NEW_PASSWORD}
        assert changed.request("POST", "/account/password", json=changing).status_code in (200, 204)
        assert revoked.request("DELETE", f"/account/tokens/{token_id}").status_code == 204
        primary.store.set_disabled(disabled.account.id, True)
        assert unshared.request("DELETE", f"/account/links/{link['id']}").status_code == 204
        ended = time.monotonic()
        assert replica.request("GET", "/files", headers=basic(changed.email, NEW_PASSWORD)).status_code == 200
        while accepted():
            assert time.monotonic() < ended + 5, accepted()
            time.sleep(0.2)
        for listener in listening:
            assert listener.close_code() == POLICY_VIOLATION
        assert time.monotonic() < ended + 8


def _path(url: str) -> str:
    found = httpx.URL(url)
    return f"{found.path}?{found.query.decode()}"


@concurrent
def test_link_signed_by_one_server_opens_on_other(primary: AccountServer, replica: AccountServer) -> None:
    """Even when a new key has signed it a moment ago."""
    user = primary.new_user()
    user.put("film.mp4", b"shared")
    first = _path(user.new_link("film.mp4")["url"])
    assert replica.open_link(first).content == b"shared"
    time.sleep(2.1)  # until the first server reads the keys again
    altered = first.replace("link=", "link=x")
    assert replica.open_link(altered).status_code == 403
    last = [key.id for key in primary.store.signing_keys.list()[:1]]
    primary.store.signing_keys.rotate(new_signing_key(), keep=last)
    link = _path(user.new_link("film.mp4")["url"])
    assert replica.open_link(link).content == b"shared"
    assert replica.open_link(first).content == b"shared"
    assert replica.open_link(altered).status_code == 403


def test_deleted_account_leaves_no_file_uploaded_to_other_server(
    primary: AccountServer, replica: AccountServer
) -> None:
    leaver = primary.new_user()
    leaver.put("film.mp4")
    deleted, busy = threading.Event(), threading.Barrier(3)

    def slow_body() -> Iterator[bytes]:
        yield noise(1000)
        assert deleted.wait(29)
        yield b"end"

    def upload(number: int) -> Counter[int]:
        """Upload until refused, or hold one upload open until the account is gone."""
        found: Counter[int] = Counter()
        account_server = (primary, replica)[number % 2]
        with account_server.server.client(headers=account_server.cookie(leaver.session)) as http:
            if number >= 2:
                return Counter([http.put(f"/files/slow {number}.mp4", content=slow_body()).status_code])
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
            deadline = time.monotonic() + 28
            while primary.store.get(leaver.account.id) is not None:
                assert time.monotonic() < deadline
                time.sleep(0.02)
        finally:
            deleted.set()
        quick, slow = (
            [upload.result() for upload in uploads[:2]],
            [upload.result() for upload in uploads[2:]],
        )
    for found in quick:
        assert found[201] > 0
        assert found[401] == 1
        assert set(found) == {201, 401}
    assert slow == [{401: 1}] * 2
    assert stored_paths(primary.server, leaver.account.library) == []
    assert "Traceback" not in primary.server.log() + replica.server.log()


@concurrent
def test_only_one_of_two_servers_scans(primary: AccountServer, replica: AccountServer) -> None:
    def scans(account_server: AccountServer) -> float:
        lines = account_server.http.get("/metrics").text.splitlines()
        return sum(float(line.split()[1]) for line in lines if line.startswith("seekable_scans_total{"))

    before = scans(primary), scans(replica)
    deadline = time.monotonic() + 20
    while (now := (scans(primary), scans(replica))) == before:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert 0 in now
