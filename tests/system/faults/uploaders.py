"""Clients that upload small files at the same time, until their server ends, and know what may be stored."""

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import count
from threading import Event

import httpx

from tests.support import Server

CLIENTS = 8


class Uploader:
    """A client that uploads versions of its own files to three folders, until its connection breaks."""

    def __init__(self, server: Server, number: int) -> None:
        self.possible: dict[str, set[bytes | None]] = {}
        """By path, the bytes that may be stored; None if the file may be absent."""
        self.failures: list[httpx.Response] = []
        self._server = server
        self._number = number

    def run(self, answered: "CountDown", stop: Event) -> None:
        with self._server.client() as http, suppress(httpx.TransportError):
            for number in count():
                if stop.is_set():
                    break
                path = f"{number % 3}/{self._number}-{number // 2 % 6}.mp4"  # each is replaced later
                data = b"%d of %d" % (number, self._number)
                before = self.possible.setdefault(path, {None})
                self.possible[path] = before | {data}
                response = http.put(f"/files/{path}", content=data)
                if response.is_success:
                    self.possible[path] = {data}
                    answered.count_down()
                else:
                    self.failures.append(response)


class CountDown:
    """An event that is set by the last of so many calls, from any thread."""

    def __init__(self, calls: int) -> None:
        self.is_over = Event()
        self._numbers = iter(range(calls, 0, -1))

    def count_down(self) -> None:
        if next(self._numbers, 0) == 1:
            self.is_over.set()


@contextmanager
def uploading(server: Server, *, answers: int, numbers: range = range(CLIENTS)) -> Iterator[list[Uploader]]:
    """Begin to upload, and enter the context when so many uploads are answered, or the server has ended.

    The uploads end when the context does, or the server.
    """
    answered, stop = CountDown(answers), Event()
    uploaders = [Uploader(server, number) for number in numbers]
    with ThreadPoolExecutor(len(uploaders)) as pool:
        running = [pool.submit(uploader.run, answered, stop) for uploader in uploaders]
        running[0].add_done_callback(lambda _: answered.is_over.set())
        try:
            assert answered.is_over.wait(60)
            yield uploaders
        finally:
            stop.set()
            for each in running:
                each.result()


def check_uploads(server: Server, uploaders: list[Uploader]) -> None:
    """Assert that a server serves and lists what each client may expect, and that all names can be used."""
    with server.client() as http:
        items = http.get("/files?recursive=true&limit=1000").raise_for_status().json()["items"]
        listed = {item["path"]: item["sha256"] for item in items}
        for uploader in uploaders:
            for path, possible in uploader.possible.items():
                response = http.get(f"/files/{path}")
                found = None if response.status_code == 404 else response.raise_for_status().content
                assert found in possible, path
                assert (path in listed) == (found is not None), path
                # The row of an answered upload is durable, and has the hash that no scan computes at once.
                if found is not None:
                    hashes = {hashlib.sha256(found).hexdigest(), *([] if len(possible) == 1 else [None])}
                    assert listed[path] in hashes, path
        for uploader in uploaders:
            for path in uploader.possible:
                assert http.put(f"/files/{path}", content=b"later").is_success
