"""WebSockets: responses to messages, events, and refused handshakes."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.support import Server, each_backend
from tests.support.sockets import BINARY, CLOSE, PING, PONG, TEXT, Socket

SendRequest = Callable[..., httpx.Response]
CheckProblem = Callable[[httpx.Response, int], str]


def open_events(server: Server) -> Socket:
    listener = Socket(server, "/events")
    assert listener.json() == {"type": "resync"}
    return listener


def next_event(listener: Socket, folder: str) -> dict[str, Any]:
    """Return the next event of a folder.

    On GridFS, events of another test's files, which were removed behind the server's back, may arrive late.
    """
    while not (event := listener.json())["path"].startswith(f"{folder}/"):
        pass
    return event


def test_session_socket_sends_sid_and_answers_every_text(server: Server, no_server_errors: None) -> None:
    with Socket(server) as one, Socket(server) as other:
        sids = {one.json()["sid"], other.json()["sid"]}
        assert len(sids) == 2
        for text in (b"", b'"ping"', "été".encode(), b"x" * (64 << 10)):
            one.send(TEXT, text)
            assert one.json() == {"pong": True}
        one.send(TEXT, b"in ", fin=False)
        one.send(0, b"pieces")
        assert one.json() == {"pong": True}
        for _ in range(1000):
            one.send(TEXT, b"x")
        assert [one.json() for _ in range(1000)] == [{"pong": True}] * 1000
        assert other.is_silent(0.1)


def test_socket_answers_ping_and_close(server: Server, no_server_errors: None) -> None:
    with Socket(server, "/events") as listener:
        assert listener.json() == {"type": "resync"}
        listener.send(PING, b"there?")
        assert listener.receive() == (PONG, b"there?")
        listener.send(TEXT, b"ignored")
        listener.send(CLOSE, b"\x03\xe8")
        assert listener.close_code() == 1000
        with pytest.raises(ConnectionError):
            listener.receive()


@each_backend
def test_events_socket_receives_every_change(
    server: Server, http: httpx.Client, folder: str, no_server_errors: None
) -> None:
    path = f"{folder}/é.mp4"
    with open_events(server) as listener, Socket(server) as session:
        session.json()
        created = http.put(f"/files/{path}", content=b"one").json()
        replaced = http.put(f"/files/{path}", content=b"two")
        form = http.post("/file/upload", data={"folder": folder}, files={"file": ("b.mp4", b"b")}).json()
        assert http.delete(f"/files/{path}").status_code == 204
        common = {"id": created["id"], "path": path}
        etag = replaced.headers["etag"].strip('"')
        assert [next_event(listener, folder) for _ in range(4)] == [
            {"type": "file.created", **common, "etag": created["etag"]},
            {"type": "file.replaced", **common, "etag": etag},
            {"type": "file.created", "id": form["id"], "path": f"{folder}/b.mp4", "etag": form["etag"]},
            {"type": "file.deleted", **common, "etag": etag},
        ]
        assert session.is_silent(0.1)


def test_failed_requests_publish_no_event(
    server: Server, http: httpx.Client, folder: str, no_server_errors: None
) -> None:
    path = f"/files/{folder}/a.mp4"
    http.put(path, content=b"one")
    with open_events(server) as listener:
        assert http.put(path, content=b"two", headers={"if-none-match": "*"}).status_code == 412
        assert http.put(path, content=b"two", headers={"repr-digest": "sha-256=:AA:"}).status_code == 400
        assert http.delete(path, headers={"if-match": '"other"'}).status_code == 412
        assert http.delete(f"/files/{folder}/none").status_code == 404
        again = http.post("/file/upload", data={"folder": folder}, files={"file": ("a.mp4", b"b")})
        assert again.status_code == 409
        assert http.put(f"/files/{folder}/last", content=b"").status_code == 201
        assert listener.json()["path"] == f"{folder}/last"


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([(BINARY, b"x", {})], 1003),
        ([(BINARY, b"x", {"fin": False}), (0, b"y", {})], 1003),
        ([(TEXT, b"x" * 100, {"length": (64 << 10) + 1})], 1009),
        ([(TEXT, b"x" * 60_000, {"fin": False}), (0, b"", {"length": 60_000})], 1009),
        ([(TEXT, b"\xff", {})], 1007),
        ([(3, b"", {})], 1002),
    ],
)
@pytest.mark.parametrize("target", ["/", "/events"])
def test_invalid_frame_closes_socket(
    server: Server,
    target: str,
    frames: list[tuple[int, bytes, dict[str, Any]]],
    code: int,
    no_server_errors: None,
) -> None:
    with Socket(server, target) as connection:
        for opcode, payload, options in frames:
            connection.send(opcode, payload, **options)
        assert connection.close_code() == code


@pytest.mark.parametrize(
    ("headers", "host", "status"),
    [
        ((), "evil.example", 421),
        ((), "evil.example:80", 421),
        (("Host: localhost",), None, 400),
        (("Origin: http://evil.example",), None, 403),
        (("Origin: null",), None, 403),
        (("Origin: http://127.0.0.1",), None, 403),  # another port is another origin
        (("Origin: http://127.0.0.1.evil.example",), "127.0.0.1", 403),
        (("X-Long: " + "x" * 9000,), None, 400),
        (("Origin: http://localhost:1",), "localhost:1", 101),
        (("Origin: HTTPS://Localhost",), "localhost", 101),  # a proxy may have terminated TLS
    ],
)
@pytest.mark.parametrize("target", ["/", "/events"])
def test_forbidden_handshake_is_refused(
    server: Server,
    target: str,
    headers: tuple[str, ...],
    host: str | None,
    status: int,
    no_server_errors: None,
) -> None:
    with Socket(server, target, *headers, host=host) as connection:
        assert connection.status == status
        if status != 101:
            assert connection.problem()["status"] == status
            with pytest.raises(ConnectionError):
                connection.receive()


def test_unknown_socket_path_returns_404(server: Server, http: httpx.Client, no_server_errors: None) -> None:
    for target in ("/nothing", "/files", "/files/a.mp4", "/events/", "/docs", "/a%0Ab"):
        with Socket(server, target) as connection:
            assert connection.problem()["status"] == connection.status == 404
    with Socket(server, "/events?%ff") as connection:
        assert connection.status == 101, "an unused query may hold anything"


def test_plain_get_of_socket_returns_426(send_request: SendRequest, check_problem: CheckProblem) -> None:
    response = send_request("GET", "/events")
    assert "ws://" in check_problem(response, 426)
    assert (response.headers["upgrade"], response.headers["connection"]) == ("websocket", "upgrade")
    assert send_request("HEAD", "/events").status_code == 426
    assert send_request("POST", "/events", body=b"").headers["allow"] == "GET, HEAD"
