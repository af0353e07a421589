"""Files that other programs put, change, move and remove beneath a server that runs."""

import base64
import hashlib
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from tests.support import Server, need, run, running
from tests.support.forking import completed
from tests.support.sockets import Socket
from tests.support.together import Outcomes, Together
from tests.system.faults.grid import until

Until = Callable[..., bool]

FILM_SHA256 = base64.b64encode(hashlib.sha256(b"film").digest()).decode()


@pytest.fixture
def lazy(tmp_path: Path) -> Iterator[Server]:
    """A server of its own, whose next scan is far away."""
    with far_from_a_scan(tmp_path) as server:
        yield server


def far_from_a_scan(folder: Path) -> AbstractContextManager[Server]:
    return running(folder / "server", storage="filesystem", scan_interval=100_000)


resting = Together("resting")
"""Tests of files that have to rest before they count as finished."""


@pytest.fixture(scope="module", name="resting")
def begun_resting(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Outcomes]:
    with resting.begun(request, lambda name: (tmp_path_factory.mktemp(name),)) as outcomes:
        yield outcomes


def names(http: httpx.Client, folder: str = "", **query: object) -> list[str]:
    answer = http.get("/files", params={"folder": folder, **query}).raise_for_status().json()
    return [item["path"] for item in answer["items"]]


@pytest.mark.campaign
def test_a_file_that_dd_writes_slowly_is_never_half_adopted(lazy: Server, until: Until) -> None:
    """It pauses for longer than a file must be still to be taken for finished."""
    target = lazy.files / "film.mp4"
    pieces = "for i in 1 2 3; do head -c 100000 /dev/zero; sleep 2.6; done"
    writing = subprocess.Popen(["sh", "-c", f"({pieces}) | dd of={target} bs=4k status=none"])
    sizes = set()
    with lazy.client() as http:
        while writing.poll() is None:
            sizes |= {item["size"] for item in http.get("/files").json()["items"]}
            answer = http.get("/files/film.mp4")
            sizes |= {len(answer.content)} if answer.status_code == 200 else set()
            assert answer.status_code in (200, 404)
            assert http.put("/files/film.mp4", content=b"x", headers={"if-none-match": "*"}).is_client_error
            time.sleep(0.1)
        assert until(lambda: names(http) == ["film.mp4"])
        assert len(http.get("/files/film.mp4").content) == 300_000
    assert sizes <= {300_000}


def test_known_file_that_is_written_in_pieces_is_a_version_after_each(lazy: Server) -> None:
    """Each piece by a program that opens and closes it."""
    target = lazy.files / "film.mp4"
    etags = set()
    with lazy.client() as http:
        http.put("/files/film.mp4", content=b"old" * 1000).raise_for_status()
        for number in range(6):
            with target.open("wb" if number == 0 else "ab") as file:
                file.write(b"new" * 1000)
            answer = http.get("/files/film.mp4")
            assert (answer.status_code, answer.content) == (200, b"new" * 1000 * (number + 1))
            etags.add(answer.headers["etag"])
        assert len(etags) == 6
        with target.open("ab", buffering=0) as file:
            file.write(b"half of ")
            answer = http.get("/files/film.mp4")
            assert answer.status_code == 503
            assert answer.headers["retry-after"]
            threading.Timer(0.2, file.close).start()
            assert http.get("/files/film.mp4").content.endswith(b"half of "), "it waits for a moment"


def test_file_of_the_same_size_and_time_is_never_taken_for_the_one_before(lazy: Server, until: Until) -> None:
    """`touch -r old new; mv new old`, with the same bytes and with others. Also chmod, and touch alone."""
    film, new = lazy.files / "film.mp4", lazy.files / "new.mp4"

    def get(**headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return http.get("/files/film.mp4", headers=named)

    with lazy.client() as http:
        old = http.put("/files/film.mp4", content=b"x" * 3_000_000).raise_for_status()
        first = get()
        etag, date = first.headers["etag"], first.headers["last-modified"]
        # The same bytes: a backup was restored.
        run("cp", film, new)
        run("touch", "-r", film, new)
        run("mv", new, film)
        meanwhile = get(if_none_match=etag).raise_for_status()
        assert meanwhile.headers["etag"] != etag or "repr-digest" in meanwhile.headers
        assert until(lambda: get().headers["etag"] == etag)
        assert get().headers["repr-digest"] == old.headers["repr-digest"]
        for known in {etag, meanwhile.headers["etag"]}:
            assert get(if_match=known).status_code == 200
            assert get(if_range=known, range="bytes=0-9").status_code == 206
        # Other bytes.
        run("cp", film, new)
        with new.open("r+b") as file:
            file.write(b"other")
        run("touch", "-r", film, new)
        run("mv", new, film)
        assert get(if_none_match=etag).content.startswith(b"other")
        assert get(if_modified_since=date).content.startswith(b"other")
        assert get(if_match=etag).status_code == 412
        assert get(if_range=etag, range="bytes=0-9").status_code == 200
        assert until(lambda: "repr-digest" in get().headers)
        assert get(if_match=etag).status_code == 412
        assert get(if_modified_since=date).status_code == 200
        # Nothing but the mode: a film plays on.
        etag = get().headers["etag"]
        film.chmod(0o600)
        assert get(if_match=etag, range="bytes=0-9").status_code == 206
        assert until(lambda: get(if_none_match=etag).status_code == 304)
        # Times alone, as `rsync -t` and `touch` set them.
        film.touch()
        assert get().status_code == 200
        assert until(lambda: get().headers["etag"] == etag)


def test_mv_over_a_managed_file_is_a_new_version(lazy: Server, tmp_path: Path) -> None:
    (tmp_path / "new.mp4").write_bytes(b"new bytes")
    with lazy.client() as http:
        before = http.put("/files/a/film.mp4", content=b"old").json()
        # While somebody reads the old one.
        with http.stream("GET", "/files/a/film.mp4") as reading:
            run("mv", tmp_path / "new.mp4", lazy.files / "a" / "film.mp4")
            assert reading.read() == b"old"
        after = http.get("/files/a/film.mp4")
        assert after.content == b"new bytes"
        assert after.headers["etag"] != f'"{before["etag"]}"'
        old = http.get("/files/a/film.mp4", headers={"if-match": f'"{before["etag"]}"'})
        assert old.status_code == 412
        (item,) = http.get("/files", params={"folder": "a"}).json()["items"]
        assert (item["id"], item["size"]) == (before["id"], 9)


@resting
def test_a_list_shows_what_was_dropped_and_not_what_was_removed(folder: Path) -> None:
    with far_from_a_scan(folder) as server, server.client() as http:
        http.put("/files/a/one.mp4", content=b"1")
        http.put("/files/b/two.mp4", content=b"2")
        (server.files / "album").mkdir()
        (server.files / "album" / "track 1.mp3").write_bytes(b"3")
        shutil.rmtree(server.files / "b")
        assert until(lambda: http.get("/files").json()["folders"] == ["a", "album"])
        assert names(http, recursive=True) == ["a/one.mp4", "album/track 1.mp3"]
        assert names(http, q="track", recursive=True) == ["album/track 1.mp3"]
        assert http.get("/files/b/two.mp4").status_code == 404
        assert http.get("/files/album/track%201.mp3").headers["content-type"] == "audio/mpeg"


@resting
def test_a_download_that_gets_its_name_when_it_is_whole(folder: Path) -> None:
    with far_from_a_scan(folder) as server, server.client() as http:
        part = server.files / "film.mp4.half"
        part.write_bytes(b"film")
        assert until(lambda: names(http) == ["film.mp4.half"])
        part.rename(server.files / "film.mp4")
        assert names(http, type="video") == ["film.mp4"]
        assert http.get("/files/film.mp4").headers["content-disposition"].startswith("inline")


@resting
def test_many_files_at_once_close_no_listener(folder: Path) -> None:
    """Of so many changes it is only said that the library is to be listed again."""
    with far_from_a_scan(folder) as server, Socket(server, "/events") as events, server.client() as http:
        assert events.json() == {"type": "resync"}
        for number in range(300):
            (server.files / f"{number}.mp4").touch()
        time.sleep(2.1)
        assert until(lambda: len(names(http, limit=1000)) == 300, within=30)
        http.put("/files/last.mp4", content=b"last").raise_for_status()
        told = [events.json()]
        while told[-1].get("path") != "last.mp4":
            told.append(events.json())
        assert {"type": "resync"} in told
        assert len(told) < 100


@resting
def test_the_server_finds_and_hashes_by_itself(folder: Path) -> None:
    with running(folder / "server", storage="filesystem", scan_interval=1) as server, server.client() as http:
        kept = http.put("/files/a/one.mp4", content=b"1").json()
        (server.files / "a" / "one.mp4").rename(server.files / "moved.mp4")
        (server.files / "b").mkdir()
        (server.files / "b" / "film.mp4").write_bytes(b"film")

        def found() -> int:
            return sum(map(int, re.findall(r"(\d+) (?:created|moved)", server.log())))

        # Not by a list, which would look for itself. A scan that was under way when the film was moved takes
        # it for one that left, and finds it where it came to be the next time.
        assert until(lambda: found() == 2, within=20)

        def digest() -> str | None:
            return http.get("/files/b/film.mp4").headers.get("repr-digest")

        assert until(lambda: digest() == f"sha-256=:{FILM_SHA256}:")
        assert http.get(f"/stream/{kept['id']}").content == b"1"
        assert http.get("/files/moved.mp4").headers["etag"] == f'"{kept["etag"]}"'


@resting
def test_links_out_of_the_folder_are_neither_served_nor_listed(folder: Path) -> None:
    with far_from_a_scan(folder) as server:
        outside = folder / "outside"
        outside.mkdir()
        (outside / "secret.mp4").write_bytes(b"secret")
        (server.files / "link.mp4").symlink_to(outside / "secret.mp4")
        (server.files / "folder").symlink_to(outside)
        (server.files / "inside.mp4").symlink_to("real.mp4")
        with server.client() as http:
            http.put("/files/real.mp4", content=b"real")
            time.sleep(2.1)
            assert names(http, recursive=True) == ["real.mp4"]
            assert http.get("/files").json()["folders"] == []
            for path in ("link.mp4", "folder/secret.mp4", "inside.mp4"):
                assert http.get(f"/files/{path}").status_code == 404
            assert http.delete("/files/folder/secret.mp4").status_code == 404
            assert http.put("/files/folder/new.mp4", content=b"x").status_code == 409
            assert http.put("/files/link.mp4", content=b"x").status_code == 409
        assert os.listdir(outside) == ["secret.mp4"]
        assert (outside / "secret.mp4").read_bytes() == b"secret"


@resting
def test_what_the_server_may_not_read_spoils_no_list(folder: Path) -> None:
    server = Server(folder / "server")
    server.bound = True
    try:
        with server.start().client() as http:
            for path in ("a/film.mp4", "known/film.mp4", "z/film.mp4"):
                http.put(f"/files/{path}", content=b"film").raise_for_status()
            (server.files / "known").chmod(0)
            for path in (server.files / "a" / "secret.mp4", server.files / "a" / "closed" / "secret.mp4"):
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(b"secret")
                path.chmod(0)
            (server.files / "a" / "closed").chmod(0)
            time.sleep(2.1)
            assert names(http, "a") == ["a/film.mp4"]
            assert names(http, recursive=True) == ["a/film.mp4", "known/film.mp4", "z/film.mp4"]
            assert http.get("/files/a/secret.mp4").status_code == 503
            (server.files / "z" / "film.mp4").unlink()
            scanned = completed("scan", environment={"SEEKABLE_FILES_DIR": str(server.files)}, bound=True)
            assert scanned.returncode == 1
            assert "unreadable: a/secret.mp4: The disk refuses: Permission denied." in scanned.stdout
            assert "unreadable: a/closed: The disk refuses: Permission denied." in scanned.stdout
            assert "unreadable: known: The disk refuses: Permission denied." in scanned.stdout
            assert "1 deleted" in scanned.stdout, "what is behind it is looked at, too"
            assert names(http, recursive=True) == ["a/film.mp4", "known/film.mp4"]
            (server.files / "a" / "secret.mp4").chmod(0o644)
            time.sleep(2.1)
            assert names(http, "a") == ["a/film.mp4", "a/secret.mp4"]
    finally:
        server.stop()
        for name in ("a/closed", "known"):
            (server.files / name).chmod(0o755)


# A disk that is not there


@contextmanager
def spare_disk(folder: Path) -> Iterator[Callable[[Path], None]]:
    """Mount a disk at a folder, or take it away; it keeps what is on it."""
    need("mount")
    image = folder / "disk.img"
    with image.open("wb") as file:
        file.truncate(16 << 20)
    run("mkfs.ext4", "-q", "-O", "^has_journal", image)
    mounted: list[Path] = []

    def mount(point: Path) -> None:
        if point in mounted:
            # Whoever reads a file there, be it to hash it, is let finish.
            assert until(lambda: run("umount", point, check=False).returncode == 0)
            mounted.remove(point)
        else:
            point.mkdir(parents=True, exist_ok=True)
            run("mount", "-o", "loop", image, point)
            mounted.append(point)

    try:
        yield mount
    finally:
        for point in mounted:
            run("umount", "-l", point)


def seekable(server: Server, command: str, **settings: object) -> subprocess.CompletedProcess[str]:
    environment = {f"SEEKABLE_{key.upper()}": str(value) for key, value in settings.items()}
    environment |= {"SEEKABLE_FILES_DIR": str(server.files)}
    return completed(command, environment={**os.environ, **environment})


@resting
def test_an_unmounted_disk_loses_no_row(folder: Path) -> None:
    database = f"sqlite:///{folder}/rows.db"
    server = Server(folder / "server", database_url=database)
    with spare_disk(folder) as disk, ExitStack() as stack:
        disk(server.files)
        stack.callback(server.stop)
        with server.start().client() as http:
            file = http.put("/files/a/film.mp4", content=b"film").json()
        server.stop()
        disk(server.files)  # away
        for command in ("serve", "scan", "verify", "migrate"):
            refused = seekable(server, command, database_url=database, port=0)
            assert refused.returncode == 1
            assert "not the one" in refused.stderr
            assert refused.stderr.count("\n") <= 2
        disk(server.files)  # and back
        with server.start().client() as http:
            (item,) = http.get("/files", params={"folder": "a"}).json()["items"]
            assert (item["id"], item["etag"]) == (file["id"], file["etag"])


@resting
def test_a_disk_inside_the_library_that_goes_and_comes_back(folder: Path) -> None:
    """What is mounted below is served, not written."""
    with far_from_a_scan(folder) as server, spare_disk(folder) as disk:
        point = server.files / "disk"
        disk(point)
        (point / "film.mp4").write_bytes(b"film")
        time.sleep(2.1)
        with server.client() as http:
            (before,) = http.get("/files", params={"folder": "disk"}).json()["items"]
            assert http.get("/files/disk/film.mp4").content == b"film"
            disk(point)  # away
            assert names(http, "disk") == []
            assert http.get("/files/disk/film.mp4").status_code == 404
            disk(point)  # and back
            (after,) = http.get("/files", params={"folder": "disk"}).json()["items"]
            assert (after["id"], after["created_at"]) == (before["id"], before["created_at"])
            assert http.get(f"/stream/{before['id']}").content == b"film"


# The commands


@resting
def test_scan_and_verify_beside_a_running_server(folder: Path) -> None:
    with far_from_a_scan(folder) as server:
        (server.files / "link\x1b[31m").symlink_to("/etc/passwd")
        server.stop()
        said = len(server.log())
        server.start()
        # By itself, which it does not do again.
        assert until(lambda: "Scanned the files" in server.log()[said:])
        with server.client() as http:
            http.put("/files/a/film.mp4", content=b"x" * 100_000)
            http.put("/files/a/gone.mp4", content=b"gone")
            (server.files / "new.mp4").write_bytes(b"new")
            (server.files / "a" / "gone.mp4").unlink()
            time.sleep(2.1)
            scanned = seekable(server, "scan")
            assert scanned.returncode == 0, scanned.stderr
            assert scanned.stdout.splitlines() == [
                "skipped: link\\x1b[31m: It is a symbolic link.",
                "2 files, 1 skipped, 1 created, 1 deleted",
            ]
            assert names(http, recursive=True) == ["new.mp4", "a/film.mp4"]
            sound = seekable(server, "verify")
            assert (sound.returncode, sound.stderr) == (0, "Verifying\n")
            assert sound.stdout.count("\n") == 1
            path = server.files / "a" / "film.mp4"
            times = path.stat()
            with path.open("r+b") as file:
                file.write(b"rot")
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
            rotten = seekable(server, "verify")
            assert rotten.returncode == 1
            named, counts = rotten.stdout.splitlines()
            assert named == "damaged: a/film.mp4"
            assert sorted(counts.split(", ")) == [
                "1 damaged",
                "1 not hashed yet",
                "2 files",
            ]  # by chance of ids
