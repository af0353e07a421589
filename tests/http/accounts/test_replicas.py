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

from app.accounts.guesses import PER_PAIR, SIGN_UPS
from app.accounts.making import new_key
from tests.http.accounts.conftest import (
    NUMBERS,
    PASSWORD,
    Person,
    Private,
    asked,
    basic,
    bearer,
    private_server,
)
from tests.http.accounts.test_leaving import files_beneath
from tests.http.accounts.test_sockets import POLICY_VIOLATION, socket
from tests.support import NewLibrary, noise
from tests.together import Outcomes, Together

QUOTA = 1_000_000
NEW = "another good password"
Problem = Callable[[httpx.Response, int], str]


# Processes of one machine share locks of the system, which the tests of leases try over SQLite, too.
MEETS = [pytest.param("filesystem", marks=pytest.mark.campaign), "postgresql", "gridfs"]


@pytest.fixture(scope="module")
def replicas(
    tmp_path_factory: pytest.TempPathFactory, new_library: NewLibrary
) -> Iterator[tuple[Private, Private]]:
    library, folder = new_library(), tmp_path_factory.mktemp("replicas")
    shared = {"files_dir": folder / "files", "scan_interval": 1}
    with ExitStack() as stack:
        one = stack.enter_context(private_server(folder / "one", library, **shared))
        one.person("admin@example.org")
        yield one, stack.enter_context(private_server(folder / "two", library, **shared))


waiting = Together("waiting")
"""The servers look anew every so often, and these wait for that: each with accounts of its own."""


@pytest.fixture(scope="module", name="waiting")
def begun(request: pytest.FixtureRequest, replicas: tuple[Private, Private]) -> Iterator[Outcomes]:
    with ExitStack() as stack:

        def given(name: str) -> tuple[Private, ...]:
            return tuple(private.beside(stack) for private in replicas)

        yield stack.enter_context(waiting.begun(request, given))


@pytest.fixture
def one(replicas: tuple[Private, Private]) -> Private:
    return replicas[0]


@pytest.fixture
def two(replicas: tuple[Private, Private]) -> Private:
    return replicas[1]


@pytest.fixture
def private(one: Private) -> Private:
    return one


def at(two: Private, person: Person, method: str, target: str, **options: Any) -> httpx.Response:
    """A request of somebody's browser to the other server."""
    headers = {**two.cookie(person.session), **options.pop("headers", {})}
    return asked(two.http, method, target, headers=headers, **options)


def test_what_the_one_did_the_other_shows_at_once(person: Person, two: Private) -> None:
    for number in range(4):
        data = noise(1000) + b"%d" % number
        person.put("new/a.mp4", data)
        assert at(two, person, "GET", "/files/new/a.mp4").content == data
        assert at(two, person, "GET", "/account").json()["used"] == len(data)
        again = at(two, person, "PUT", "/files/new/a.mp4", content=data[:-1])
        assert again.status_code == 204
        assert person.ask("GET", "/files/new/a.mp4").headers["etag"] == again.headers["etag"]
        moved = person.ask(
            "PATCH",
            "/files/new/a.mp4",
            json={"filename": "b.mkv"},
            headers={"content-type": "application/merge-patch+json"},
        )
        assert moved.status_code == 200
        listed = at(two, person, "GET", "/files?folder=new").json()["items"]
        assert [item["path"] for item in listed] == ["new/b.mkv"]
        assert at(two, person, "HEAD", "/files/new/b.mkv").headers["content-type"] == "video/x-matroska"
        assert at(two, person, "HEAD", "/files/new/a.mp4").status_code == 404
        assert at(two, person, "DELETE", "/files/new/b.mkv").status_code == 204
        assert person.content("new/b.mkv") is None
        assert person.paths() == []


def test_two_uploads_never_have_more_than_the_quota_together(one: Private, two: Private) -> None:
    """Each server has let its own in, and looks again when it stores it."""
    for _ in range(4):
        person = one.person(quota=QUOTA)
        both = threading.Barrier(2)

        def body(both: threading.Barrier) -> Iterator[bytes]:
            yield noise(600_000)
            both.wait(10)

        def put(private: Private, headers: dict[str, str], both: threading.Barrier) -> int:
            with private.server.client(headers=headers) as http:
                return http.put(f"/files/{id(private)}.mp4", content=body(both)).status_code

        with ThreadPoolExecutor(2) as pool:
            found = [
                pool.submit(put, private, private.cookie(person.session), both) for private in (one, two)
            ]
            assert Counter(one.result() for one in found) == {201: 1, 507: 1}
        assert person.ask("GET", "/account").json()["used"] == 600_000


@contextmanager
def browsers(one: Private, two: Private) -> Iterator[tuple[httpx.Client, httpx.Client]]:
    """The same one of somebody's, at an address where nobody was before."""
    address = f"127.2.{next(NUMBERS) % 250}.1"
    with ExitStack() as stack:
        first, second = (
            stack.enter_context(
                private.server.client(transport=httpx.HTTPTransport(local_address=address, verify=False))
            )
            for private in (one, two)
        )
        yield first, second


def test_guesses_are_counted_together(one: Private, two: Private, person: Person, problem: Problem) -> None:
    with browsers(one, two) as both, browsers(one, two) as elsewhere:
        for number in range(PER_PAIR):
            guess = {"email": person.email, "password": f"wrong {number}"}
            assert both[number % 2].post("/login", json=guess).status_code == 401
        right = {"email": person.email, "password": PASSWORD}
        for http in both:
            problem(http.post("/login", json=right), 429)
            assert http.get("/files", headers=basic(person.email)).status_code == 429
        assert elsewhere[1].post("/login", json=right).status_code == 200


def test_sign_ups_are_counted_together(one: Private, two: Private) -> None:
    one.account(taken := f"taken-{next(NUMBERS)}@example.org")
    body = {"email": taken, "password": "not mine"}
    with browsers(one, two) as both:
        statuses = [both[n % 2].post("/sign-up", json=body).status_code for n in range(SIGN_UPS + 2)]
    assert statuses == [409] * SIGN_UPS + [429] * 2


@waiting
def test_what_the_one_ended_is_over_at_the_other(one: Private, two: Private) -> None:
    """All at once, for it takes one wait; and WebSockets that are open there."""
    out, changed, revoked, disabled, unshared = (one.person() for _ in range(5))
    for person in (out, changed, revoked, disabled, unshared):
        person.put("film.mp4")
    token, link = revoked.token(), unshared.link("film.mp4")
    token_id = one.ask("GET", "/account/tokens", headers=revoked.headers).json()["items"][0]["id"]
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
            if two.ask("GET", "/files/film.mp4", headers=headers).status_code == 200
        }
        return found | ({"a link"} if two.open_link(_path(link["url"])).status_code == 200 else set())

    assert let_in() == {*shown, "a link"}
    with ExitStack() as stack:
        listening = [stack.enter_context(socket(two, "/events", headers)) for headers in shown.values()]
        for listener in listening:
            assert listener.json() == {"type": "resync"}
        assert out.ask("POST", "/logout").status_code in (200, 204, 303)
        changing = {"password": PASSWORD, "new_password": NEW}
        assert changed.ask("POST", "/account/password", json=changing).status_code in (200, 204)
        assert revoked.ask("DELETE", f"/account/tokens/{token_id}").status_code == 204
        one.store.set_disabled(disabled.account.id, True)
        assert unshared.ask("DELETE", f"/account/links/{link['id']}").status_code == 204
        ended = time.monotonic()
        assert two.ask("GET", "/files", headers=basic(changed.email, NEW)).status_code == 200
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
def test_a_link_that_the_one_signed_opens_at_the_other(one: Private, two: Private) -> None:
    """At once, also when it was signed with a key that is new."""
    person = one.person()
    person.put("film.mp4", b"shared")
    first = _path(person.link("film.mp4")["url"])
    assert two.open_link(first).content == b"shared"
    time.sleep(2.1)  # the one has to look which keys there are
    altered = first.replace("link=", "link=x")
    assert two.open_link(altered).status_code == 403
    last = [key.id for key in one.store.signing_keys()[:1]]
    one.store.add_signing_key(new_key(), keep=last)
    link = _path(person.link("film.mp4")["url"])
    assert two.open_link(link).content == b"shared"
    assert two.open_link(first).content == b"shared"
    assert two.open_link(altered).status_code == 403


def test_an_account_that_leaves_leaves_no_file_behind_that_came_through_the_other(
    one: Private, two: Private
) -> None:
    leaver = one.person()
    leaver.put("film.mp4")
    gone, busy = threading.Event(), threading.Barrier(3)

    def slowly() -> Iterator[bytes]:
        yield noise(1000)
        assert gone.wait(29)
        yield b"end"

    def upload(number: int) -> Counter[int]:
        """One after the other, until it is refused; or one that ends when the account is gone."""
        found: Counter[int] = Counter()
        private = (one, two)[number % 2]
        with private.server.client(headers=private.cookie(leaver.session)) as http:
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
        assert leaver.ask("POST", "/account/delete", json={"password": PASSWORD}).status_code == 204
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
def test_one_of_the_two_scans(one: Private, two: Private) -> None:
    def scans(private: Private) -> float:
        lines = private.http.get("/metrics").text.splitlines()
        return sum(float(line.split()[1]) for line in lines if line.startswith("seekable_scans_total{"))

    before = scans(one), scans(two)
    ends = time.monotonic() + 20
    while (now := (scans(one), scans(two))) == before:
        assert time.monotonic() < ends
        time.sleep(0.1)
    assert 0 in now
