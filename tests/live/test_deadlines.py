"""Clients that keep a connection waiting, in each of the ways in which they can."""

import contextlib
import random
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from tests.beneath import beneath
from tests.faults.descriptors import descriptors
from tests.http.conftest import RawConnection
from tests.live.clients import until
from tests.sockets import PING, PONG, Socket
from tests.support import NewLibrary, Server, running
from tests.together import Outcomes, Together

pytestmark = pytest.mark.live

LIMIT = 1
IDLE = 0.5
READER = 2
LATE = 5
"""Seconds after which a limit has been passed by, on a machine that is busy."""

FILM = random.Random(5).randbytes(12_000_000)

folder_only = pytest.mark.parametrize("new_library", ["filesystem"], indirect=True)
"""What has nothing to do with what files are stored in."""


@contextlib.contextmanager
def impatient(tmp_path_factory: pytest.TempPathFactory, new_library: NewLibrary) -> Iterator[Server]:
    """It has little patience, and a film."""
    limits = {"header_timeout": LIMIT, "body_timeout": LIMIT, "keepalive_timeout": IDLE}
    folder = tmp_path_factory.mktemp("impatient")
    settings = {"send_timeout": READER, "max_header_size": 4096, "body_rate": 1, **limits, **new_library()}
    with running(folder, **settings) as server:
        with server.client() as http:
            http.put("/files/film.mp4", content=FILM).raise_for_status()
        yield server
        assert "Traceback" not in server.log()
        assert " ERROR " not in server.log()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, new_library: NewLibrary) -> Iterator[Server]:
    with impatient(tmp_path_factory, new_library) as server:
        yield server


Open = Callable[..., RawConnection]


@contextlib.contextmanager
def opening(server: Server) -> Iterator[Open]:
    connections: list[RawConnection] = []

    def begin(data: bytes, buffer: int | None = None) -> RawConnection:
        connections.append(connection := RawConnection("127.0.0.1", server.port, buffer))
        connection.send(data)
        return connection

    yield begin
    for connection in connections:
        connection.close()


@pytest.fixture
def begin(server: Server) -> Iterator[Open]:
    """A connection on which these bytes were sent."""
    with opening(server) as begin:
        yield begin


everywhere = Together("everywhere")
here = Together("here")


@pytest.fixture(scope="module", name="everywhere")
def begun_everywhere(
    request: pytest.FixtureRequest,
    server: Server,
    tmp_path_factory: pytest.TempPathFactory,
    new_library: NewLibrary,
) -> Iterator[Outcomes]:
    """One of them counts descriptors, and has a server of its own for that."""
    with impatient(tmp_path_factory, new_library) as another, opening(server) as one, opening(another) as two:
        given = {"test_a_body_has_to_go_on": (server, one)}
        with everywhere.begun(request, lambda name: given.get(name, (another, two))) as outcomes:
            yield outcomes


@pytest.fixture(scope="module", name="here")
def begun_here(request: pytest.FixtureRequest, server: Server) -> Iterator[Outcomes]:
    with opening(server) as begin, here.begun(request, lambda name: (begin,)) as outcomes:
        yield outcomes


def head(method: str, target: str, *headers: str) -> bytes:
    return "\r\n".join([f"{method} {target} HTTP/1.1", "Host: localhost", *headers, "", ""]).encode()


def watched(connection: RawConnection, dribble: bytes = b"") -> tuple[bytes, float]:
    """What comes until the server ends the connection, and after how long; it is sent these bytes
    meanwhile, again and again."""
    began = time.monotonic()
    received = b""
    connection.socket.settimeout(0.2)
    with contextlib.suppress(ConnectionError):
        while time.monotonic() < began + 10:
            with contextlib.suppress(TimeoutError):
                data = connection.socket.recv(1 << 16)
                if not data:
                    break
                received += data
            if dribble:
                connection.send(dribble)
    return received, time.monotonic() - began


def all_watched(connections: dict[str, tuple[RawConnection, bytes]]) -> dict[str, tuple[bytes, float]]:
    with ThreadPoolExecutor(len(connections)) as pool:
        return dict(zip(connections, pool.map(lambda one: watched(*one), connections.values()), strict=True))


HEALTH = head("GET", "/health")


@folder_only
@here
def test_a_head_has_to_come(begin: Open) -> None:
    found = all_watched(
        {
            "nothing": (begin(b""), b""),
            "empty lines": (begin(b"\r\n"), b"\r\n"),
            "half of it": (begin(HEALTH[:-2]), b""),
            "byte by byte": (begin(HEALTH[:-2] + b"X: "), b"y"),
            "header by header": (begin(HEALTH[:-2]), b"X: y\r\n"),
            "half of the second": (begin(HEALTH + HEALTH[:-2]), b""),
        }
    )
    for name, (received, seconds) in found.items():
        assert LIMIT * 0.9 < seconds < LATE, name
        responses = received.count(b"HTTP/1.1 ")
        if name in ("nothing", "empty lines"):
            assert responses == 0, name
        else:
            assert received.count(b"HTTP/1.1 408 Request Timeout\r\n") == 1, name
            assert responses == (2 if "second" in name else 1), name


LONG = f"Content-Length: {len(FILM)}"
FORM = b'--x\r\nContent-Disposition: form-data; name="file"; filename="new.mp4"\r\n\r\n'
BODIES = {
    "before it": head("PUT", "/files/new.mp4", LONG),
    "that was asked for": head("PUT", "/files/new.mp4", LONG, "Expect: 100-continue"),
    "amid it": head("PUT", "/files/new.mp4", LONG) + FILM[:3_000_000],
    "amid a chunk": head("PUT", "/files/new.mp4", "Transfer-Encoding: chunked") + b"fff\r\nx",
    "before the last chunk": head("PUT", "/files/new.mp4", "Transfer-Encoding: chunked") + b"1\r\nx\r\n",
    "in a trailer": head("PUT", "/files/new.mp4", "Transfer-Encoding: chunked") + b"1\r\nx\r\n0\r\nX: y\r\n",
    "in a form": head("POST", "/file/upload", LONG, "Content-Type: multipart/form-data; boundary=x") + FORM,
}


@everywhere
def test_a_body_has_to_go_on(server: Server, begin: Open) -> None:
    before = beneath(server).leftovers()
    slow = begin(head("PUT", "/files/slow.mp4", "Content-Length: 15"))
    found = all_watched({name: (begin(data), b"") for name, data in BODIES.items()} | {"slow": (slow, b"y")})
    received, seconds = found.pop("slow")
    assert received.startswith(b"HTTP/1.1 201 "), "it came, a byte at a time"
    assert seconds > LIMIT * 2
    for name, (received, seconds) in found.items():
        final = received.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert final.startswith(b"HTTP/1.1 408 Request Timeout\r\n"), name
        assert b"connection: close\r\n" in final, name
        assert LIMIT * 0.9 < seconds < LATE, name
    until(lambda: beneath(server).leftovers() == before, "nothing of them is left")
    with server.client() as http:
        assert [item["path"] for item in http.get("/files").json()["items"]] == ["film.mp4", "slow.mp4"]


@pytest.mark.campaign
def test_the_time_in_which_the_server_stood_still_is_nobodys_fault(tmp_path: Path) -> None:
    """As when its machine slept. What came meanwhile is there, but it has yet to look."""
    with running(tmp_path, body_timeout=2) as server:
        for number in range(20):  # of which a few stop it just before it looks
            with closing(RawConnection("127.0.0.1", server.port)) as connection:
                connection.send(head("PUT", f"/files/{number}", "Content-Length: 2") + b"x")
                time.sleep(0.3 + number * 0.03)
                server.process.send_signal(signal.SIGSTOP)
                time.sleep(2.2)
                connection.send(b"y")
                server.process.send_signal(signal.SIGCONT)
                assert connection.receive_response().status_code == 201


def test_a_body_has_to_come_at_a_pace(tmp_path: Path) -> None:
    with running(tmp_path, body_timeout=LIMIT, body_rate=1000) as server, opening(server) as begin:
        slow = begin(head("PUT", "/files/slow.mp4", "Content-Length: 5000"))
        fast = begin(head("PUT", "/files/fast.mp4", "Content-Length: 5000"))
        found = all_watched({"slow": (slow, b"x" * 50), "fast": (fast, b"x" * 500)})
        received, seconds = found["slow"]
        assert received.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
        assert b"at least 1000 bytes a second" in received
        assert LIMIT * 0.9 < seconds < LATE
        assert found["fast"][0].startswith(b"HTTP/1.1 201 ")
        assert server.staging() == []


@folder_only
@here
def test_what_follows_a_refusal_has_to_end(begin: Open) -> None:
    refused = head("PUT", "/files/film.mp4", LONG, "If-None-Match: *")
    found = all_watched(
        {"it stops": (begin(refused + b"x"), b""), "it goes on": (begin(refused), b"x" * 1000)}
    )
    for name, (received, seconds) in found.items():
        assert received.startswith(b"HTTP/1.1 412 "), name
        assert received.count(b"HTTP/1.1 ") == 1, name
        assert seconds < LATE, name


@folder_only
def test_who_sends_a_body_unasked_hears_why_it_is_refused(server: Server, begin: Open) -> None:
    """What is asked for is another matter: it never comes, and the connection cannot go on."""
    refused = head(
        "PUT", "/files/film.mp4", "Content-Length: 300000", "If-None-Match: *", "Expect: 100-continue"
    )
    connection = begin(refused + FILM[:1000])
    answer = connection.receive_response()
    assert (answer.status_code, answer.headers.get("connection")) == (412, None)
    connection.send(FILM[1000:300_000] + HEALTH)
    assert connection.receive_response().status_code == 200
    waiting = begin(refused)
    answer = waiting.receive_response()
    assert (answer.status_code, answer.headers["connection"]) == (412, "close")
    assert waiting.is_closed()


@folder_only
@here
def test_an_idle_connection_ends(begin: Open) -> None:
    refused = head("PUT", "/files/film.mp4", "Content-Length: 1", "If-None-Match: *") + b"x"
    found = all_watched(
        {
            "silent": (begin(HEALTH), b""),
            "empty lines": (begin(HEALTH), b"\r\n"),
            "after a refusal": (begin(refused), b""),
            "empty lines after a refusal": (begin(refused), b"\r\n"),
            "after a HEAD of a film": (begin(head("HEAD", "/files/film.mp4")), b"\r\n"),
        }
    )
    for name, (received, seconds) in found.items():
        assert received.count(b"HTTP/1.1 ") == 1, name
        assert IDLE * 0.9 < seconds < LATE, name


@everywhere
def test_a_reader_has_to_read_on_and_be_it_slowly(server: Server, begin: Open) -> None:
    time.sleep(0.2)
    before = descriptors(server)
    film = head("GET", "/files/film.mp4")
    never = [begin(film, 4096), begin(film, 65536), begin(HEALTH + film + film, 4096)]
    # A kernel says that there is room again when about half of its buffer is free, not earlier.
    slow = [begin(film, 4096), begin(film, 16384)]
    until(lambda: descriptors(server)["socket"] >= before["socket"] + 5, "all are there")
    with Socket(server) as quiet:  # nothing is asked of it, and it says nothing
        quiet.json()
        end = time.monotonic() + READER * 1.75
        read = [b"", b""]
        while time.monotonic() < end:
            for number, connection in enumerate(slow):
                read[number] += connection.socket.recv(12_000)
            time.sleep(0.3)
        quiet.send(PING, b"?")
        assert quiet.receive() == (PONG, b"?")
    for connection, begun in zip(slow, read, strict=True):
        connection._buffer = begun
    with ThreadPoolExecutor(len(slow)) as pool:
        assert [answer.content == FILM for answer in pool.map(RawConnection.receive_response, slow)] == [
            True,
            True,
        ]
    for connection in slow:
        connection.close()
    until(lambda: descriptors(server) <= before, "nothing is kept for those who never read")
    for connection in never:
        # What the kernel had taken in comes, and then: no end, but a break.
        connection.socket.settimeout(5)
        with pytest.raises(ConnectionResetError):
            while connection.socket.recv(1 << 20):
                pass


@folder_only
@here
def test_what_the_kernel_has_taken_still_comes(begin: Open) -> None:
    """The server is done with it, and waits for the next request, long before a slow client is."""
    connection = begin(head("GET", "/files/film.mp4", "Range: bytes=0-999999"))
    time.sleep(IDLE * 4)
    assert connection.receive_response().content == FILM[:1_000_000]
    assert connection.is_closed()


# Sizes


@folder_only
@pytest.mark.parametrize(
    "data",
    [
        HEALTH[:-2] + b"X: " + b"y" * 5000,
        HEALTH[:-2] + b"X: " + b"y" * 5000 + b"\r\n\r\n",
        b"GET /health?" + b"y" * 5000,
        head("GET", "/health?" + "y" * 5000),
        b"\r\n" * 3000,
    ],
    ids=["half of it", "all of it", "half of a target", "a target", "empty lines"],
)
def test_a_head_that_is_too_long(begin: Open, data: bytes) -> None:
    received, seconds = watched(begin(data))
    assert received.startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")
    assert seconds < LIMIT


@folder_only
def test_only_the_head_counts_as_the_head(begin: Open) -> None:
    put = head("PUT", "/files/new.mp4", "Content-Length: 100000")
    connection = begin(put + FILM[:100_000] + HEALTH * 90 + HEALTH[:10])
    assert connection.receive_response().status_code == 201
    assert [connection.receive_response().status_code for _ in range(90)] == [200] * 90
    connection.send(HEALTH[10:])
    assert connection.receive_response().status_code == 200


@folder_only
def test_requests_that_do_not_wait_for_answers_wait_for_their_turn(begin: Open) -> None:
    connection = begin(head("GET", "/files/film.mp4") + HEALTH * 70)
    time.sleep(0.1)
    connection.send(HEALTH * 70)
    assert connection.receive_response().content == FILM
    assert [connection.receive_response().status_code for _ in range(140)] == [200] * 140
    connection = begin(HEALTH * 1000)
    received, _ = watched(connection)
    assert received.startswith(b"HTTP/1.1 429 Too Many Requests\r\n")
    assert received.count(b"HTTP/1.1 ") == 1


@folder_only
def test_what_follows_a_change_is_not_taken_for_its_outcome(begin: Open) -> None:
    connection = begin(head("PUT", "/files/changed.mp4", "Content-Length: 3") + b"abc" + b"\x00\r\n\r\n")
    received, _ = watched(connection)
    assert received[:12] in (b"", b"HTTP/1.1 201")


@folder_only
def test_a_trailer_is_not_of_this_head_nor_of_the_next(server: Server, begin: Open) -> None:
    """RFC 9110 6.5.1. All of it comes at once, before the program has begun."""
    with server.client() as http:
        http.put("/files/there.mp4", content=b"old").raise_for_status()
    put = head("PUT", "/files/there.mp4", "Transfer-Encoding: chunked") + b"3\r\nnew\r\n0\r\n"
    connection = begin(put + b"If-None-Match: *\r\n\r\n")
    assert connection.receive_response().status_code == 204
    connection.send(put)
    connection.send(b"X: " + b"y" * 3000 + b"\r\n\r\n")
    assert connection.receive_response().status_code == 204
    connection.send(HEALTH[:-2] + b"X: " + b"y" * 3000)
    connection.send(b"\r\n\r\n")
    assert connection.receive_response().status_code == 200


CHUNKED = head("PUT", "/files/endless.mp4", "Transfer-Encoding: chunked") + b"1\r\nx\r\n"
FLOODS = {
    "a head": (HEALTH[:-2] + b"X: ", b"y" * 10_000),
    "headers": (HEALTH[:-2], b"X: y\r\n" * 2000),
    "a trailer": (CHUNKED + b"0\r\nX: ", b"y" * 10_000),
    "trailers": (CHUNKED + b"0\r\n", b"X: y\r\n" * 2000),
    "what a chunk says of itself": (CHUNKED + b"1;", b"y" * 10_000),
    "requests": (b"", b"GET / HTTP/1.1\r\nHost:a\r\n\r\n" * 500),
    "requests for films": (b"", head("GET", "/files/film.mp4", "Range: bytes=0-0") * 200),
    "empty lines": (b"", b"\r\n" * 5000),
}


@folder_only
@pytest.mark.parametrize("flood", FLOODS)
def test_what_has_no_end_is_not_remembered(server: Server, begin: Open, flood: str) -> None:
    first, more = FLOODS[flood]
    connection = begin(first)
    memory = server.rss()
    sent = 0
    with contextlib.suppress(ConnectionError, TimeoutError):
        connection.socket.settimeout(0.5)
        while sent < 30 << 20:
            sent += connection.socket.send(more)
    assert sent < 30 << 20, "it was stopped"
    assert server.rss() - memory < 8 << 20
    until(lambda: not beneath(server).leftovers(), "nothing is left")
