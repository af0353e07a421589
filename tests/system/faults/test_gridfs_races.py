"""Many clients of two servers over one database in GridFS, which want the same names."""

import itertools
import random
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.support import Server, mongo
from tests.system.faults.grid import Begin, Download, Grid, answer_to, form, head, sha256, until

CLIENTS = 200
KIND = {"content-type": "application/merge-patch+json"}
NUMBERS = itertools.count(1)

Servers = tuple[Server, Server]


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Grid:
    return Grid(tmp_path_factory.mktemp("grid"), str(mongo.gridfs()["mongodb_url"]))


@pytest.fixture(scope="module")
def servers(grid: Grid) -> Iterator[Servers]:
    with grid.server("one") as one, grid.server("two") as two:
        yield one, two
        for server in (one, two):
            assert "Traceback" not in server.log()


@pytest.fixture
def folder() -> str:
    return f"folder-{next(NUMBERS)}"


def race(begin: Begin, servers: Servers, requests: list[bytes]) -> list[httpx.Response]:
    """Requests that are sent to both servers but for their last byte, and then all at once."""
    connections = [begin(servers[number % 2], request[:-1]) for number, request in enumerate(requests)]
    start = threading.Barrier(len(requests))

    def finish(connection: socket.socket, request: bytes) -> httpx.Response:
        start.wait(30)
        connection.sendall(request[-1:])
        answer = answer_to(connection)
        assert answer is not None
        return answer

    with ThreadPoolExecutor(len(requests)) as pool:
        return list(pool.map(finish, connections, requests))


def put(target: str, body: bytes, *headers: str) -> bytes:
    return head("PUT", target, "Connection: close", f"Content-Length: {len(body)}", *headers) + body


def post(target: str, body: bytes) -> bytes:
    tail = b"\r\n--x--"
    size = len(form(target, 0).partition(b"\r\n\r\n")[2]) + len(body) + len(tail)
    return form(target, size) + body + tail


def statuses(answers: list[httpx.Response]) -> Counter[int]:
    return Counter(answer.status_code for answer in answers)


def contents(count: int) -> list[bytes]:
    return [str(number).encode() + random.Random(number).randbytes(300_000) for number in range(count)]


def both(servers: Servers, target: str) -> httpx.Response:
    """What each of the servers answers, which is the same."""
    answers = []
    for server in servers:
        with server.client() as http:
            answers.append(http.get(target))
    one, two = answers
    assert (one.status_code, one.headers.get("etag")) == (two.status_code, two.headers.get("etag"))
    assert two.status_code != 200 or one.content == two.content
    return one


@pytest.mark.parametrize(("by", "refused"), [("put", 412), ("form", 409)])
def test_hundreds_that_create_one_name(
    grid: Grid, servers: Servers, folder: str, begin: Begin, by: str, refused: int
) -> None:
    target, datas = f"/files/{folder}/film.mp4", contents(CLIENTS)
    answers = race(
        begin,
        servers,
        [post(target, data) if by == "form" else put(target, data, "If-None-Match: *") for data in datas],
    )
    assert statuses(answers) == {201: 1, refused: CLIENTS - 1}
    (winner,) = (number for number, answer in enumerate(answers) if answer.status_code == 201)
    assert both(servers, target).content == datas[winner]
    assert until(lambda: not grid.under_way()), "what the losers sent is removed by themselves"
    grid.check_nothing_left()
    assert both(servers, target).content == datas[winner]


def test_hundreds_that_replace_one_version(grid: Grid, servers: Servers, folder: str, begin: Begin) -> None:
    target, datas = f"/files/{folder}/film.mp4", contents(CLIENTS)
    with servers[0].client() as http:
        tag = http.put(target, content=b"old").headers["etag"]
    answers = race(begin, servers, [put(target, data, f"If-Match: {tag}") for data in datas])
    assert statuses(answers) == {204: 1, 412: CLIENTS - 1}
    (winner,) = (number for number, answer in enumerate(answers) if answer.status_code == 204)
    grid.check_nothing_left()
    assert both(servers, target).content == datas[winner]


def test_a_file_and_a_folder_of_one_name_are_never_both_acknowledged(
    grid: Grid, servers: Servers, folder: str, begin: Begin
) -> None:
    for turn in range(8):
        file = f"/files/{folder}/{turn}/x"
        inside = [f"{file}/a.mp4", f"{file}/b/c.mp4"]
        targets = [file, inside[turn % 2]] * 4
        answers = race(begin, servers, [put(target, b"x", "If-None-Match: *") for target in targets])
        assert {*statuses(answers)} <= {201, 409, 412}
        made = {target for target, answer in zip(targets, answers, strict=True) if answer.is_success}
        assert len(made) <= 1
        for target in {*targets}:
            # If the file inside was made, the path of the folder redirects to its page.
            missing = 308 if target == file and made else 404
            assert both(servers, target).status_code == (200 if target in made else missing)
    grid.check_nothing_left()


def test_changes_of_one_name_that_race(grid: Grid, servers: Servers, folder: str) -> None:
    """Moves onto it, creations, replacements and deletions: what is acknowledged fits together."""

    def change(number: int) -> tuple[Counter[tuple[str, int]], set[str]]:
        seen: Counter[tuple[str, int]] = Counter()
        sent = set()
        target, own = f"/files/{folder}/x.mp4", f"/files/{folder}/own-{number}.mp4"
        with servers[number % 2].client() as http:
            for turn in range(12):
                data = f"{number} {turn}".encode() * 100
                match (number // 2 + turn) % 4:
                    case 0:
                        http.put(own, content=data)
                        answer = http.patch(own, json={"filename": "x.mp4"}, headers=KIND)
                        kind = "move"
                    case 1:
                        answer, kind = (
                            http.put(target, content=data, headers={"if-none-match": "*"}),
                            "create",
                        )
                    case 2:
                        answer, kind = http.put(target, content=data), "put"
                    case _:
                        answer, kind = http.delete(target), "delete"
                seen[kind, answer.status_code] += 1
                sent.add(sha256(data))
        return seen, sent

    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(change, range(8)))
    seen = sum((each for each, _ in done), Counter[tuple[str, int]]())
    expected = {"move": {200, 409}, "create": {201, 412}, "put": {201, 204}, "delete": {204, 404}}
    assert {(kind, status) for kind, status in seen if status not in expected[kind]} == set()
    found = both(servers, f"/files/{folder}/x.mp4")
    there = found.status_code == 200
    assert not there or sha256(found.content) in set().union(*(sent for _, sent in done))
    # What began to be there has ended, but for what is there now.
    began = seen["move", 200] + seen["create", 201] + seen["put", 201]
    assert began - seen["delete", 204] == there
    grid.check_nothing_left()


@pytest.mark.parametrize("change", ["replaced", "deleted"])
def test_a_slow_reader_keeps_its_version_for_the_grace(
    grid: Grid, servers: Servers, folder: str, begin: Begin, change: str
) -> None:
    target, film = f"/files/{folder}/film.mp4", random.Random(5).randbytes(24_000_000)
    with servers[0].client() as one, servers[1].client() as two:
        one.put(target, content=film).raise_for_status()
        grid.check_nothing_left()  # nor its lease
        slow = [Download(begin, server, target) for server in servers for _ in range(2)]
        if change == "replaced":
            assert two.put(target, content=b"new").status_code == 204
        else:
            assert two.delete(target).status_code == 204
        assert grid.seekable("scan").returncode == 0
        for reader in slow[:2]:
            assert reader.rest()
            assert sha256(reader.body) == sha256(film)
        grid.pass_time()
        scanned = grid.seekable("scan")
        assert scanned.returncode == 0, scanned.stderr
        assert [reader.rest() for reader in slow[2:]] == [False, False], "broken, not short"
        grid.check_nothing_left()
        assert both(servers, target).status_code == (200 if change == "replaced" else 404)


def test_each_server_sees_at_once_what_the_other_did(servers: Servers, folder: str) -> None:
    with servers[0].client() as one, servers[1].client() as two:
        for turn in range(6):
            here, there = (one, two) if turn % 2 else (two, one)
            target, moved = f"/files/{folder}/{turn}.mp4", f"/files/{folder}/moved-{turn}.mp4"

            def listed(there: httpx.Client = there) -> dict[str, int]:
                items = there.get("/files", params={"folder": folder}).json()["items"]
                return {item["path"]: item["size"] for item in items}

            assert here.put(target, content=b"first").status_code == 201
            assert there.get(target).content == b"first"
            assert listed()[target.removeprefix("/files/")] == 5
            assert here.put(target, content=b"second").status_code == 204
            assert there.get(target).content == b"second"
            assert listed()[target.removeprefix("/files/")] == 6
            patch = here.patch(target, json={"filename": f"moved-{turn}.mp4"}, headers=KIND)
            assert patch.status_code == 200
            assert there.get(target).status_code == 404
            assert there.get(moved).content == b"second"
            assert here.delete(moved).status_code == 204
            assert there.get(moved).status_code == 404
            assert listed() == {}
