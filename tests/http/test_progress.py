"""Upload progress: the messages that a WebSocket receives for the uploads that carry its sid."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.support import Server
from tests.support.sockets import TEXT, Socket

BIG = b"f" * (6 << 20)


@pytest.fixture
def session(server: Server) -> Iterator[Socket]:
    with Socket(server) as session:
        yield session


@pytest.fixture
def sid(session: Socket) -> str:
    return str(session.json()["sid"])


def progress_of(session: Socket) -> list[dict[str, Any]]:
    """Return all progress messages up to the one with `received` equal to `total`."""
    messages: list[dict[str, Any]] = []
    while not messages or messages[-1]["received"] != messages[-1]["total"]:
        message = session.json()
        assert set(message) == {"progress"}
        messages.append(message["progress"])
        assert set(messages[-1]) == {"filename", "received", "total"}
    assert [message["received"] for message in messages] == sorted({m["received"] for m in messages})
    return messages


@pytest.mark.parametrize("sid_position", ["before", "after", "query", "twice"])
def test_form_upload_reports_progress(
    session: Socket,
    sid: str,
    folder: str,
    sid_position: str,
    part: Callable[..., bytes],
    send_form: Callable[..., httpx.Response],
    no_server_errors: None,
) -> None:
    file, field = part("file", BIG, filename="film.mp4"), part("sid", sid.encode())
    parts = {"before": [field, file], "after": [file, field], "query": [file], "twice": [file, field]}[
        sid_position
    ]
    query = f"?folder={folder}" + (f"&sid={sid}" if sid_position in ("query", "twice") else "")
    response = send_form(*parts, query=query)
    assert response.status_code == 201, response.text
    messages = progress_of(session)
    total = messages[-1]["total"]
    assert {message["total"] for message in messages} == {total}
    assert total == len(b"".join(parts)) + len("--xxBOUNDARYxx--\r\n")
    assert messages[-1] == {"filename": "film.mp4", "received": total, "total": total}
    # No socket can be notified before the form names the sid.
    assert (len(messages) > 1) == (sid_position != "after")
    assert session.is_silent(0.15)


def slow_body(seconds: float, size: int) -> Iterator[bytes]:
    """Yield `size` bytes over `seconds`, one piece every 5 ms."""
    pieces = int(seconds / 0.005)
    for _ in range(pieces):
        yield b"x" * (size // pieces)
        time.sleep(0.005)


def test_progress_arrives_during_upload_at_most_ten_times_a_second(
    server: Server, session: Socket, sid: str, folder: str, no_server_errors: None
) -> None:
    """Two uploads with one sid get ten messages a second each. The length of one is unknown."""
    size, seconds = 400_000, 1.0
    responded_at: dict[str, float] = {}

    def put(name: str) -> None:
        headers = {} if name == "chunked" else {"content-length": str(size)}
        with server.client() as client:
            url = f"/files/{folder}/{name}?sid={sid}"
            response = client.put(url, content=slow_body(seconds, size), headers=headers)
            responded_at[name] = time.monotonic()
            assert response.status_code == 201

    threads = [threading.Thread(target=put, args=(name,)) for name in ("chunked", "length")]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    messages: dict[str, list[tuple[float, int, int | None]]] = {"chunked": [], "length": []}
    while any(not reports or reports[-1][1] != reports[-1][2] for reports in messages.values()):
        progress = session.json()["progress"]
        report = (time.monotonic(), progress["received"], progress["total"])
        messages[progress["filename"]].append(report)
    for thread in threads:
        thread.join()
    for name, reports in messages.items():
        assert 5 <= len(reports) <= 10 * (responded_at[name] - started)  # for 200 pieces
        assert reports[0][0] < responded_at[name] - seconds / 2
        assert reports[-1][0] < responded_at[name] + 10
        assert {total for _, _, total in reports[:-1]} == {None if name == "chunked" else size}
        assert reports[-1][1:] == (size, size)


@pytest.mark.parametrize("content", [b"", iter([b""])], ids=["length", "chunked"])
def test_final_progress_is_sent_for_empty_file(
    session: Socket, sid: str, http: httpx.Client, folder: str, content: bytes | Iterator[bytes]
) -> None:
    response = http.put(f"/files/{folder}/empty", params={"sid": sid}, content=content)
    assert response.status_code == 201
    assert session.json() == {"progress": {"filename": "empty", "received": 0, "total": 0}}
    assert http.put(f"/files/{folder}/empty", params={"sid": sid}, content=b"abc").status_code == 204
    assert progress_of(session)[-1] == {"filename": "empty", "received": 3, "total": 3}


def test_failed_upload_never_reports_completion(
    session: Socket,
    sid: str,
    folder: str,
    send_form: Callable[..., httpx.Response],
    part: Callable[..., bytes],
) -> None:
    file = part("file", b"x" * 1000, filename="a")
    assert send_form(file, query=f"?folder={folder}&sid={sid}").status_code == 201
    progress_of(session)
    assert send_form(file, query=f"?folder={folder}&sid={sid}").status_code == 409
    session.send(TEXT, b"ping")
    messages = []
    while "pong" not in (message := session.json()):
        messages.append(message["progress"])
    assert all(message["received"] < message["total"] for message in messages)


def test_unknown_sid_is_ignored_and_ambiguous_or_long_sid_is_rejected(
    http: httpx.Client,
    folder: str,
    part: Callable[..., bytes],
    send_form: Callable[..., httpx.Response],
    check_problem: Callable[..., str],
    no_server_errors: None,
) -> None:
    file = part("file", b"x", filename="a")
    query = f"?folder={folder}"
    assert send_form(part("sid", b"unknown"), file, query=query).status_code == 201
    assert http.put(f"/files/{folder}/b?sid=unknown", content=b"x").status_code == 201
    assert http.put(f"/files/{folder}/b?sid=", content=b"x").status_code == 204
    second_file = part("file", b"x", filename="c")
    assert "sid" in check_problem(send_form(second_file, part("sid", b"one"), query=f"{query}&sid=two"), 400)
    assert "sid" in check_problem(send_form(second_file, part("sid", b"s" * 65), query=query), 400)
    assert "sid" in check_problem(send_form(second_file, query=f"{query}&sid={'s' * 65}"), 422)
    assert "sid" in check_problem(http.put(f"/files/{folder}/c?sid={'s' * 65}", content=b"x"), 422)
    assert http.get(f"/files/{folder}/c").status_code == 404
