"""The progress of uploads, as the WebSocket that they name hears of it."""

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
    """All messages up to the one that says that all was received."""
    messages: list[dict[str, Any]] = []
    while not messages or messages[-1]["received"] != messages[-1]["total"]:
        message = session.json()
        assert set(message) == {"progress"}
        messages.append(message["progress"])
        assert set(messages[-1]) == {"filename", "received", "total"}
    assert [message["received"] for message in messages] == sorted({m["received"] for m in messages})
    return messages


@pytest.mark.parametrize("where", ["before", "after", "query", "twice"])
def test_an_upload_by_form_tells_its_progress(
    session: Socket,
    sid: str,
    folder: str,
    where: str,
    part: Callable[..., bytes],
    send_form: Callable[..., httpx.Response],
    no_server_errors: None,
) -> None:
    file, field = part("file", BIG, filename="film.mp4"), part("sid", sid.encode())
    parts = {"before": [field, file], "after": [file, field], "query": [file], "twice": [file, field]}[where]
    query = f"?folder={folder}" + (f"&sid={sid}" if where in ("query", "twice") else "")
    response = send_form(*parts, query=query)
    assert response.status_code == 201, response.text
    messages = progress_of(session)
    total = messages[-1]["total"]
    assert {message["total"] for message in messages} == {total}
    assert total == len(b"".join(parts)) + len("--xxBOUNDARYxx--\r\n")
    assert messages[-1] == {"filename": "film.mp4", "received": total, "total": total}
    assert (len(messages) > 1) == (where != "after")  # before it is named, nobody can be told
    assert session.is_silent(0.15)


def slowly(seconds: float, size: int) -> Iterator[bytes]:
    """So many bytes, in pieces that come every 5 ms."""
    pieces = int(seconds / 0.005)
    for _ in range(pieces):
        yield b"x" * (size // pieces)
        time.sleep(0.005)


def test_progress_comes_while_the_bytes_do_and_at_most_ten_times_a_second(
    server: Server, session: Socket, sid: str, folder: str, no_server_errors: None
) -> None:
    """Two uploads at once that name one sid: ten a second each. Of one the length is not known before."""
    size, seconds = 400_000, 1.0
    answered: dict[str, float] = {}

    def put(name: str) -> None:
        headers = {} if name == "chunked" else {"content-length": str(size)}
        with server.client() as client:
            url = f"/files/{folder}/{name}?sid={sid}"
            response = client.put(url, content=slowly(seconds, size), headers=headers)
            answered[name] = time.monotonic()
            assert response.status_code == 201

    threads = [threading.Thread(target=put, args=(name,)) for name in ("chunked", "length")]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    heard: dict[str, list[tuple[float, int, int | None]]] = {"chunked": [], "length": []}
    while any(not told or told[-1][1] != told[-1][2] for told in heard.values()):
        progress = session.json()["progress"]
        told = (time.monotonic(), progress["received"], progress["total"])
        heard[progress["filename"]].append(told)
    for thread in threads:
        thread.join()
    for name, told in heard.items():
        assert 5 <= len(told) <= 10 * (answered[name] - started)  # of 200 pieces
        assert told[0][0] < answered[name] - seconds / 2
        assert told[-1][0] < answered[name] + 10
        assert {total for _, _, total in told[:-1]} == {None if name == "chunked" else size}
        assert told[-1][1:] == (size, size)


@pytest.mark.parametrize("content", [b"", iter([b""])], ids=["length", "chunked"])
def test_the_last_message_comes_for_an_empty_file_too(
    session: Socket, sid: str, http: httpx.Client, folder: str, content: bytes | Iterator[bytes]
) -> None:
    response = http.put(f"/files/{folder}/empty", params={"sid": sid}, content=content)
    assert response.status_code == 201
    assert session.json() == {"progress": {"filename": "empty", "received": 0, "total": 0}}
    assert http.put(f"/files/{folder}/empty", params={"sid": sid}, content=b"abc").status_code == 204
    assert progress_of(session)[-1] == {"filename": "empty", "received": 3, "total": 3}


def test_an_upload_that_fails_is_never_told_to_be_whole(
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
    session.send(TEXT, b"all said?")
    messages = []
    while "pong" not in (message := session.json()):
        messages.append(message["progress"])
    assert all(message["received"] < message["total"] for message in messages)


def test_a_sid_that_is_nobodys_is_ignored_and_two_or_an_endless_one_are_refused(
    http: httpx.Client,
    folder: str,
    part: Callable[..., bytes],
    send_form: Callable[..., httpx.Response],
    check_problem: Callable[..., str],
    no_server_errors: None,
) -> None:
    file = part("file", b"x", filename="a")
    at = f"?folder={folder}"
    assert send_form(part("sid", b"nobody"), file, query=at).status_code == 201
    assert http.put(f"/files/{folder}/b?sid=nobody", content=b"x").status_code == 201
    assert http.put(f"/files/{folder}/b?sid=", content=b"x").status_code == 204
    other = part("file", b"x", filename="c")
    assert "sid" in check_problem(send_form(other, part("sid", b"one"), query=f"{at}&sid=two"), 400)
    assert "sid" in check_problem(send_form(other, part("sid", b"s" * 65), query=at), 400)
    assert "sid" in check_problem(send_form(other, query=f"{at}&sid={'s' * 65}"), 422)
    assert "sid" in check_problem(http.put(f"/files/{folder}/c?sid={'s' * 65}", content=b"x"), 422)
    assert http.get(f"/files/{folder}/c").status_code == 404
