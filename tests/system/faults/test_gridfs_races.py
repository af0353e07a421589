"""Many clients of two servers over one GridFS database, which race for the same names."""

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
from tests.system.faults.grid import Download, Grid, StartRequest, form_head, head, response_to, sha256, until

CLIENTS = 80
MERGE_PATCH = {"content-type": "application/merge-patch+json"}
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


def race(start_request: StartRequest, servers: Servers, requests: list[bytes]) -> list[httpx.Response]:
    """Send the requests to the two servers in turn, and their last bytes all at once.

    Returns the responses, in the order of the requests.
    """
    connections = [
        start_request(servers[number % 2], request[:-1]) for number, request in enumerate(requests)
    ]
    start = threading.Barrier(len(requests))

    def finish(connection: socket.socket, request: bytes) -> httpx.Response:
        start.wait(30)
        connection.sendall(request[-1:])
        response = response_to(connection)
        assert response is not None
        return response

    with ThreadPoolExecutor(len(requests)) as pool:
        return list(pool.map(finish, connections, requests))


def put(target: str, body: bytes, *headers: str) -> bytes:
    return head("PUT", target, "Connection: close", f"Content-Length: {len(body)}", *headers) + body


def post(target: str, body: bytes) -> bytes:
    tail = b"\r\n--x--"
    size = len(form_head(target, 0).partition(b"\r\n\r\n")[2]) + len(body) + len(tail)
    return form_head(target, size) + body + tail


def statuses(responses: list[httpx.Response]) -> Counter[int]:
    return Counter(response.status_code for response in responses)


def contents(count: int) -> list[bytes]:
    """Return small files, which are stored in groups, and others that are stored alone, for both servers."""
    return [
        str(number).encode() + random.Random(number).randbytes(3_000 if number % 4 < 2 else 300_000)
        for number in range(count)
    ]


def identical_response(servers: Servers, target: str) -> httpx.Response:
    """Get a target from both servers, and assert that their responses are the same."""
    responses = []
    for server in servers:
        with server.client() as http:
            responses.append(http.get(target))
    one, two = responses
    assert (one.status_code, one.headers.get("etag")) == (two.status_code, two.headers.get("etag"))
    assert two.status_code != 200 or one.content == two.content
    return one


@pytest.mark.parametrize(("method", "refused"), [("put", 412), ("form", 409)])
def test_one_of_many_racing_creates_wins(
    grid: Grid, servers: Servers, folder: str, start_request: StartRequest, method: str, refused: int
) -> None:
    target, bodies = f"/files/{folder}/film.mp4", contents(CLIENTS)
    responses = race(
        start_request,
        servers,
        [
            post(target, data) if method == "form" else put(target, data, "If-None-Match: *")
            for data in bodies
        ],
    )
    assert statuses(responses) == {201: 1, refused: CLIENTS - 1}
    (winner,) = (number for number, response in enumerate(responses) if response.status_code == 201)
    assert identical_response(servers, target).content == bodies[winner]
    assert until(lambda: not grid.unreferenced_chunks()), "the losing uploads left bytes"
    grid.check_no_leftovers()
    assert identical_response(servers, target).content == bodies[winner]


def test_one_of_many_racing_replacements_of_a_version_wins(
    grid: Grid, servers: Servers, folder: str, start_request: StartRequest
) -> None:
    target, bodies = f"/files/{folder}/film.mp4", contents(CLIENTS)
    with servers[0].client() as http:
        tag = http.put(target, content=b"old").headers["etag"]
    responses = race(start_request, servers, [put(target, data, f"If-Match: {tag}") for data in bodies])
    assert statuses(responses) == {204: 1, 412: CLIENTS - 1}
    (winner,) = (number for number, response in enumerate(responses) if response.status_code == 204)
    grid.check_no_leftovers()
    assert identical_response(servers, target).content == bodies[winner]


def test_file_and_folder_of_one_name_are_never_both_acknowledged(
    grid: Grid, servers: Servers, folder: str, start_request: StartRequest
) -> None:
    for turn in range(8):
        file = f"/files/{folder}/{turn}/x"
        inside = [f"{file}/a.mp4", f"{file}/b/c.mp4"]
        targets = [file, inside[turn % 2]] * 4
        responses = race(
            start_request, servers, [put(target, b"x", "If-None-Match: *") for target in targets]
        )
        assert {*statuses(responses)} <= {201, 409, 412}
        created = {target for target, response in zip(targets, responses, strict=True) if response.is_success}
        assert len(created) <= 1
        for target in {*targets}:
            # If the file inside was created, the path of the folder redirects to its page.
            missing = 308 if target == file and created else 404
            assert identical_response(servers, target).status_code == (200 if target in created else missing)
    grid.check_no_leftovers()


def test_racing_changes_of_one_name_are_consistent(grid: Grid, servers: Servers, folder: str) -> None:
    """Moves onto the name, creations, replacements and deletions: the acknowledged ones fit one history."""

    def change(number: int) -> tuple[Counter[tuple[str, int]], set[str]]:
        outcomes: Counter[tuple[str, int]] = Counter()
        sent = set()
        target, other = f"/files/{folder}/x.mp4", f"/files/{folder}/own-{number}.mp4"
        with servers[number % 2].client() as http:
            for turn in range(12):
                data = f"{number} {turn}".encode() * 100
                match (number // 2 + turn) % 4:
                    case 0:
                        http.put(other, content=data)
                        response = http.patch(other, json={"filename": "x.mp4"}, headers=MERGE_PATCH)
                        kind = "move"
                    case 1:
                        response, kind = (
                            http.put(target, content=data, headers={"if-none-match": "*"}),
                            "create",
                        )
                    case 2:
                        response, kind = http.put(target, content=data), "put"
                    case _:
                        response, kind = http.delete(target), "delete"
                outcomes[kind, response.status_code] += 1
                sent.add(sha256(data))
        return outcomes, sent

    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(change, range(8)))
    outcomes = sum((counts for counts, _ in done), Counter[tuple[str, int]]())
    expected = {"move": {200, 409}, "create": {201, 412}, "put": {201, 204}, "delete": {204, 404}}
    assert {(kind, status) for kind, status in outcomes if status not in expected[kind]} == set()
    found = identical_response(servers, f"/files/{folder}/x.mp4")
    exists = found.status_code == 200
    assert not exists or sha256(found.content) in set().union(*(sent for _, sent in done))
    # Every created or moved file has been deleted, except the present one.
    created = outcomes["move", 200] + outcomes["create", 201] + outcomes["put", 201]
    assert created - outcomes["delete", 204] == exists
    grid.check_no_leftovers()


@pytest.mark.parametrize("change", ["replaced", "deleted"])
def test_slow_reader_keeps_its_version_during_the_grace_period(
    grid: Grid, servers: Servers, folder: str, start_request: StartRequest, change: str
) -> None:
    target, film = f"/files/{folder}/film.mp4", random.Random(5).randbytes(24_000_000)
    with servers[0].client() as one, servers[1].client() as two:
        one.put(target, content=film).raise_for_status()
        grid.check_no_leftovers()  # and removes the lease of the upload
        readers = [Download(start_request, server, target) for server in servers for _ in range(2)]
        if change == "replaced":
            assert two.put(target, content=b"new").status_code == 204
        else:
            assert two.delete(target).status_code == 204
        assert grid.seekable("scan").returncode == 0
        for reader in readers[:2]:
            assert reader.read_to_end()
            assert sha256(reader.body) == sha256(film)
        grid.expire_leases()
        scan = grid.seekable("scan")
        assert scan.returncode == 0, scan.stderr
        assert [reader.read_to_end() for reader in readers[2:]] == [False, False], (
            "a truncated body looked complete"
        )
        grid.check_no_leftovers()
        assert identical_response(servers, target).status_code == (200 if change == "replaced" else 404)


def test_servers_see_each_others_changes_at_once(servers: Servers, folder: str) -> None:
    with servers[0].client() as one, servers[1].client() as two:
        for turn in range(6):
            writer, reader = (one, two) if turn % 2 else (two, one)
            target, moved = f"/files/{folder}/{turn}.mp4", f"/files/{folder}/moved-{turn}.mp4"

            def listed(reader: httpx.Client = reader) -> dict[str, int]:
                items = reader.get("/files", params={"folder": folder}).json()["items"]
                return {item["path"]: item["size"] for item in items}

            assert writer.put(target, content=b"first").status_code == 201
            assert reader.get(target).content == b"first"
            assert listed()[target.removeprefix("/files/")] == 5
            assert writer.put(target, content=b"second").status_code == 204
            assert reader.get(target).content == b"second"
            assert listed()[target.removeprefix("/files/")] == 6
            patch = writer.patch(target, json={"filename": f"moved-{turn}.mp4"}, headers=MERGE_PATCH)
            assert patch.status_code == 200
            assert reader.get(target).status_code == 404
            assert reader.get(moved).content == b"second"
            assert writer.delete(moved).status_code == 204
            assert reader.get(moved).status_code == 404
            assert listed() == {}
