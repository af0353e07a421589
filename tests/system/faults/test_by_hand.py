"""Files that other programs create, change, move and remove in the folder of a running server."""

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
def server(tmp_path: Path) -> Iterator[Server]:
    """Run a server of the test's own that does not scan during the test."""
    with running_without_scans(tmp_path) as server:
        yield server


def running_without_scans(folder: Path) -> AbstractContextManager[Server]:
    return running(folder / "server", storage="filesystem", scan_interval=100_000, stable_after=0)


concurrent = Together("outcomes")
"""Tests that spend most of their time waiting."""


@pytest.fixture(scope="module", name="outcomes")
def concurrent_outcomes(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Outcomes]:
    with concurrent.begun(request, lambda name: (tmp_path_factory.mktemp(name),)) as outcomes:
        yield outcomes


def names(http: httpx.Client, folder: str = "", **query: object) -> list[str]:
    response = http.get("/files", params={"folder": folder, **query}).raise_for_status().json()
    return [item["path"] for item in response["items"]]


@pytest.mark.campaign
def test_file_that_dd_writes_slowly_is_adopted_only_whole(server: Server, until: Until) -> None:
    """dd pauses for longer than a file must be unchanged to count as finished."""
    target = server.files / "film.mp4"
    pieces = "for i in 1 2 3; do head -c 100000 /dev/zero; sleep 2.6; done"
    dd = subprocess.Popen(["sh", "-c", f"({pieces}) | dd of={target} bs=4k status=none"])
    sizes = set()
    with server.client() as http:
        while dd.poll() is None:
            sizes |= {item["size"] for item in http.get("/files").json()["items"]}
            response = http.get("/files/film.mp4")
            sizes |= {len(response.content)} if response.status_code == 200 else set()
            assert response.status_code in (200, 404)
            assert http.put("/files/film.mp4", content=b"x", headers={"if-none-match": "*"}).is_client_error
            time.sleep(0.1)
        assert until(lambda: names(http) == ["film.mp4"])
        assert len(http.get("/files/film.mp4").content) == 300_000
    assert sizes <= {300_000}


def test_known_file_has_new_version_after_each_program_that_appends(server: Server) -> None:
    """Each program opens the file, writes, and closes it."""
    target = server.files / "film.mp4"
    etags = set()
    with server.client() as http:
        http.put("/files/film.mp4", content=b"old" * 1000).raise_for_status()
        for number in range(6):
            with target.open("wb" if number == 0 else "ab") as file:
                file.write(b"new" * 1000)
            response = http.get("/files/film.mp4")
            assert (response.status_code, response.content) == (200, b"new" * 1000 * (number + 1))
            etags.add(response.headers["etag"])
        assert len(etags) == 6
        with target.open("ab", buffering=0) as file:
            file.write(b"half of ")
            response = http.get("/files/film.mp4")
            assert response.status_code == 503
            assert response.headers["retry-after"]
            threading.Timer(0.2, file.close).start()
            assert http.get("/files/film.mp4").content.endswith(b"half of "), (
                "the server did not wait for the writer"
            )


def test_replaced_file_of_same_size_and_time_is_not_served_as_the_old_version(
    server: Server, until: Until
) -> None:
    """`touch -r old new; mv new old`, with the same bytes and with others; chmod alone; touch alone."""
    film, new = server.files / "film.mp4", server.files / "new.mp4"

    def get(**headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return http.get("/files/film.mp4", headers=named)

    with server.client() as http:
        old = http.put("/files/film.mp4", content=b"x" * 3_000_000).raise_for_status()
        first = get()
        etag, date = first.headers["etag"], first.headers["last-modified"]
        # The same bytes, as when a backup is restored.
        run("cp", film, new)
        run("touch", "-r", film, new)
        run("mv", new, film)
        unproved = get(if_none_match=etag).raise_for_status()
        assert unproved.headers["etag"] != etag or "repr-digest" in unproved.headers
        assert until(lambda: get().headers["etag"] == etag)
        assert get().headers["repr-digest"] == old.headers["repr-digest"]
        for accepted in {etag, unproved.headers["etag"]}:
            assert get(if_match=accepted).status_code == 200
            assert get(if_range=accepted, range="bytes=0-9").status_code == 206
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
        # The mode alone: playback continues.
        etag = get().headers["etag"]
        film.chmod(0o600)
        assert get(if_match=etag, range="bytes=0-9").status_code == 206
        assert until(lambda: get(if_none_match=etag).status_code == 304)
        # The times alone, as `rsync -t` and `touch` set them.
        film.touch()
        assert get().status_code == 200
        assert until(lambda: get().headers["etag"] == etag)


def test_mv_over_managed_file_makes_a_new_version(server: Server, tmp_path: Path) -> None:
    (tmp_path / "new.mp4").write_bytes(b"new bytes")
    with server.client() as http:
        before = http.put("/files/a/film.mp4", content=b"old").json()
        # During a download of the old version.
        with http.stream("GET", "/files/a/film.mp4") as download:
            run("mv", tmp_path / "new.mp4", server.files / "a" / "film.mp4")
            assert download.read() == b"old"
        after = http.get("/files/a/film.mp4")
        assert after.content == b"new bytes"
        assert after.headers["etag"] != f'"{before["etag"]}"'
        old = http.get("/files/a/film.mp4", headers={"if-match": f'"{before["etag"]}"'})
        assert old.status_code == 412
        (item,) = http.get("/files", params={"folder": "a"}).json()["items"]
        assert (item["id"], item["size"]) == (before["id"], 9)


@concurrent
def test_list_shows_files_added_by_hand_and_omits_removed_ones(folder: Path) -> None:
    with running_without_scans(folder) as server, server.client() as http:
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


@concurrent
def test_finished_download_is_listed_at_once_under_its_final_name(folder: Path) -> None:
    with running_without_scans(folder) as server, server.client() as http:
        part = server.files / "film.mp4.half"
        part.write_bytes(b"film")
        assert until(lambda: names(http) == ["film.mp4.half"])
        part.rename(server.files / "film.mp4")
        assert names(http, type="video") == ["film.mp4"]
        assert http.get("/files/film.mp4").headers["content-disposition"].startswith("inline")


@concurrent
def test_many_new_files_send_resync_instead_of_an_event_each(folder: Path) -> None:
    """After many changes a client receives one resync instead, and keeps its connection."""
    with (
        running_without_scans(folder) as server,
        Socket(server, "/events") as events,
        server.client() as http,
    ):
        assert events.json() == {"type": "resync"}
        for number in range(300):
            (server.files / f"{number}.mp4").touch()
        assert until(lambda: len(names(http, limit=1000)) == 300, within=30)
        http.put("/files/last.mp4", content=b"last").raise_for_status()
        received = [events.json()]
        while received[-1].get("path") != "last.mp4":
            received.append(events.json())
        assert {"type": "resync"} in received
        assert len(received) < 100


@concurrent
def test_scan_adopts_moves_and_hashes_without_requests(folder: Path) -> None:
    with running(folder / "server", storage="filesystem", scan_interval=1) as server, server.client() as http:
        kept = http.put("/files/a/one.mp4", content=b"1").json()
        (server.files / "a" / "one.mp4").rename(server.files / "moved.mp4")
        (server.files / "b").mkdir()
        (server.files / "b" / "film.mp4").write_bytes(b"film")

        def found() -> int:
            return sum(map(int, re.findall(r"(\d+) (?:created|moved)", server.log())))

        # Not by a list, which would adopt the files itself. A scan that runs during the move takes the film
        # for deleted; the next scan finds it at its new path.
        assert until(lambda: found() == 2, within=20)

        def digest() -> str | None:
            return http.get("/files/b/film.mp4").headers.get("repr-digest")

        assert until(lambda: digest() == f"sha-256=:{FILM_SHA256}:")
        assert http.get(f"/stream/{kept['id']}").content == b"1"
        assert http.get("/files/moved.mp4").headers["etag"] == f'"{kept["etag"]}"'


@concurrent
def test_symlinks_are_neither_served_nor_listed_nor_written_through(folder: Path) -> None:
    with running_without_scans(folder) as server:
        outside = folder / "outside"
        outside.mkdir()
        (outside / "secret.mp4").write_bytes(b"secret")
        (server.files / "link.mp4").symlink_to(outside / "secret.mp4")
        (server.files / "folder").symlink_to(outside)
        (server.files / "inside.mp4").symlink_to("real.mp4")
        with server.client() as http:
            http.put("/files/real.mp4", content=b"real")
            assert names(http, recursive=True) == ["real.mp4"]
            assert http.get("/files").json()["folders"] == []
            for path in ("link.mp4", "folder/secret.mp4", "inside.mp4"):
                assert http.get(f"/files/{path}").status_code == 404
            assert http.delete("/files/folder/secret.mp4").status_code == 404
            assert http.put("/files/folder/new.mp4", content=b"x").status_code == 409
            assert http.put("/files/link.mp4", content=b"x").status_code == 409
        assert os.listdir(outside) == ["secret.mp4"]
        assert (outside / "secret.mp4").read_bytes() == b"secret"


@concurrent
def test_unreadable_files_do_not_hide_readable_ones(folder: Path) -> None:
    server = Server(folder / "server", stable_after=0)
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
            assert names(http, "a") == ["a/film.mp4"]
            assert names(http, recursive=True) == ["a/film.mp4", "known/film.mp4", "z/film.mp4"]
            assert http.get("/files/a/secret.mp4").status_code == 503
            (server.files / "z" / "film.mp4").unlink()
            scan = completed(
                "scan",
                environment={"SEEKABLE_FILES_DIR": str(server.files), "SEEKABLE_STABLE_AFTER": "0"},
                bound=True,
            )
            assert scan.returncode == 1
            assert "unreadable: a/secret.mp4: The file system reported: Permission denied." in scan.stdout
            assert "unreadable: a/closed: The file system reported: Permission denied." in scan.stdout
            assert "unreadable: known: The file system reported: Permission denied." in scan.stdout
            assert "1 deleted" in scan.stdout, "the scan ended at an unreadable folder"
            assert names(http, recursive=True) == ["a/film.mp4", "known/film.mp4"]
            (server.files / "a" / "secret.mp4").chmod(0o644)
            assert names(http, "a") == ["a/film.mp4", "a/secret.mp4"]
    finally:
        server.stop()
        for name in ("a/closed", "known"):
            (server.files / name).chmod(0o755)


# Unmounted disks


@contextmanager
def spare_disk(folder: Path) -> Iterator[Callable[[Path], None]]:
    """Yield a function that mounts a disk at a folder, or unmounts it if it is mounted there."""
    need("mount")
    image = folder / "disk.img"
    with image.open("wb") as file:
        file.truncate(16 << 20)
    run("mkfs.ext4", "-q", "-O", "^has_journal", image)
    mounted: list[Path] = []

    def mount(point: Path) -> None:
        if point in mounted:
            # The disk is busy while the server reads a file, for example to hash it.
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
    environment |= {"SEEKABLE_FILES_DIR": str(server.files), "SEEKABLE_STABLE_AFTER": "0"}
    return completed(command, environment={**os.environ, **environment})


@concurrent
def test_unmounted_disk_loses_no_rows(folder: Path) -> None:
    database = f"sqlite:///{folder}/rows.db"
    server = Server(folder / "server", database_url=database)
    with spare_disk(folder) as disk, ExitStack() as stack:
        disk(server.files)
        stack.callback(server.stop)
        with server.start().client() as http:
            file = http.put("/files/a/film.mp4", content=b"film").json()
        server.stop()
        disk(server.files)  # unmount
        for command in ("serve", "scan", "verify", "migrate"):
            refused = seekable(server, command, database_url=database, port=0)
            assert refused.returncode == 1
            assert "not the one" in refused.stderr
            assert refused.stderr.count("\n") <= 2
        disk(server.files)  # mount again
        with server.start().client() as http:
            (item,) = http.get("/files", params={"folder": "a"}).json()["items"]
            assert (item["id"], item["etag"]) == (file["id"], file["etag"])


@concurrent
def test_files_of_a_disk_below_the_library_keep_their_identity_when_remounted(folder: Path) -> None:
    """The server serves files of file systems mounted below its folder, and does not write to them."""
    with running_without_scans(folder) as server, spare_disk(folder) as disk:
        point = server.files / "disk"
        disk(point)
        (point / "film.mp4").write_bytes(b"film")
        with server.client() as http:
            (before,) = http.get("/files", params={"folder": "disk"}).json()["items"]
            assert http.get("/files/disk/film.mp4").content == b"film"
            disk(point)  # unmount
            assert names(http, "disk") == []
            assert http.get("/files/disk/film.mp4").status_code == 404
            disk(point)  # mount again
            (after,) = http.get("/files", params={"folder": "disk"}).json()["items"]
            assert (after["id"], after["created_at"]) == (before["id"], before["created_at"])
            assert http.get(f"/stream/{before['id']}").content == b"film"


# The commands


@concurrent
def test_scan_and_verify_report_changes_beside_a_running_server(folder: Path) -> None:
    with running_without_scans(folder) as server:
        (server.files / "link\x1b[31m").symlink_to("/etc/passwd")
        server.stop()
        log_start = len(server.log())
        server.start()
        # The scan at the start; the next one is far away.
        assert until(lambda: "Scanned the files" in server.log()[log_start:])
        with server.client() as http:
            http.put("/files/a/film.mp4", content=b"x" * 100_000)
            http.put("/files/a/gone.mp4", content=b"gone")
            (server.files / "new.mp4").write_bytes(b"new")
            (server.files / "a" / "gone.mp4").unlink()
            scan = seekable(server, "scan")
            assert scan.returncode == 0, scan.stderr
            assert scan.stdout.splitlines() == [
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
            damaged = seekable(server, "verify")
            assert damaged.returncode == 1
            finding, counts = damaged.stdout.splitlines()
            assert finding == "damaged: a/film.mp4"
            # Sorted, because files are verified in the order of their random IDs.
            assert sorted(counts.split(", ")) == ["1 damaged", "1 not hashed yet", "2 files"]
