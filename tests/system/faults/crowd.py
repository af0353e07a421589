"""Many clients of equal servers. They check every response: each server must serve the version that was
acknowledged last, by any server."""

import hashlib
import itertools
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx

from tests.support import noise

Version = str | None
"""The SHA-256 of a film, or None if it does not exist."""

FOLDER = "crowd"
LONG = noise(2 << 20) * 16
RETRY_S = 0.05
"""Seconds between two attempts of a client that was refused."""

THINK_S = 0.02
"""Seconds between two actions of a client: this process runs all clients, and must not be the bottleneck."""


@dataclass
class Film:
    """One path, which one client changes and all clients read."""

    path: str
    possible: frozenset[Version] = frozenset({None})
    """Versions that may be stored now: more than one while the outcome of a change is unknown."""
    attempted: list[Version] = field(default_factory=list)
    """The versions of all changes that were ever sent."""

    def attempt(self, version: Version) -> None:
        self.attempted.append(version)
        self.possible |= {version}

    def acknowledge(self, version: Version) -> None:
        self.possible = frozenset({version})

    def possible_since(self) -> Callable[[], set[Version]]:
        """Return a function that, after a read, returns the versions that were possible."""
        possible, attempts = self.possible, len(self.attempted)
        return lambda: {*possible, *self.attempted[attempts:]}


class Crowd:
    """A number of clients: a third of them write, a third download, and a third list."""

    def __init__(self, connect: Callable[[], httpx.Client], clients: int) -> None:
        self._connect = connect
        self._clients = clients
        self._stopped = threading.Event()
        self._numbers = itertools.count()
        self.films = [Film(f"{FOLDER}/{number % 7}/{number}.mp4") for number in range(clients // 3 * 3)]
        self.long = Film(f"{FOLDER}/long.mp4")
        """A film that takes four seconds to download, and does not change."""
        self.violations: list[str] = []
        """Responses that must not occur, with the seconds since the beginning."""
        self._began = time.monotonic()
        self.outcomes: Counter[object] = Counter()
        """Responses by status, and transport errors by type."""
        self.interrupted = 0
        """Downloads of the long film that were interrupted."""
        self.resumed = 0
        """Downloads that were interrupted, resumed by a range request, and complete in the end."""

    @contextmanager
    def working(self) -> Iterator[None]:
        """Run all clients inside the context."""
        with self._connect() as http:
            self._put(http, self.long, LONG)
        roles = (self._write, self._download, self._list)
        with ThreadPoolExecutor(self._clients) as pool:
            futures: list[Future[None]] = [
                pool.submit(self._work, roles[number % 3], number) for number in range(self._clients)
            ]
            try:
                yield
            finally:
                self._stopped.set()
            for future in futures:
                future.result()

    def succeeded(self) -> int:
        return sum(count for outcome, count in self.outcomes.items() if outcome in (200, 201, 204, 206))

    def _work(self, role: Callable[[httpx.Client, random.Random, int], None], number: int) -> None:
        rng = random.Random(number)
        with self._connect() as http:
            while not self._stopped.is_set():
                try:
                    role(http, rng, number)
                    time.sleep(THINK_S)
                except httpx.TransportError as error:
                    self.outcomes[type(error).__name__] += 1
                    time.sleep(RETRY_S)

    def _write(self, http: httpx.Client, rng: random.Random, number: int) -> None:
        """Change one of the three films that only this client changes."""
        film = self.films[number // 3 * 3 + rng.randrange(3)]
        if None not in film.possible and rng.random() < 0.15:
            film.attempt(None)
            if self._is_expected(http.delete(f"/files/{film.path}"), 204, 404):
                film.acknowledge(None)
            return
        start = rng.randrange(1 << 20)
        self._put(http, film, noise(2 << 20)[start : start + rng.randrange(1, 600_000)])

    def _put(self, http: httpx.Client, film: Film, data: bytes) -> None:
        data += b"%d" % next(self._numbers)  # so that all versions differ
        version = hashlib.sha256(data).hexdigest()
        film.attempt(version)
        if self._is_expected(http.put(f"/files/{film.path}", content=data), 201, 204):
            film.acknowledge(version)

    def _download(self, http: httpx.Client, rng: random.Random, number: int) -> None:
        """Download a film to its end, across restarts of the server."""
        film = self.long if number % 2 else rng.choice(self.films)
        while not self._stopped.is_set() and not self._is_downloaded(http, film):
            pass  # replaced during the download: start again

    def _is_downloaded(self, http: httpx.Client, film: Film) -> bool:
        """Return False if the film was replaced meanwhile, True if it was complete or the crowd stopped."""
        possible, digest, size, interrupted = film.possible_since(), hashlib.sha256(), 0, False
        headers: dict[str, str] = {}
        while not self._stopped.is_set():
            try:
                with http.stream("GET", f"/files/{film.path}", headers=headers) as response:
                    if not self._is_expected(response, 200, 206, 404, 412):
                        continue
                    if response.status_code == 412:
                        return False
                    if response.status_code == 404:
                        self._check(film, None, possible())
                        return True
                    headers["if-match"] = response.headers["etag"]
                    for piece in response.iter_raw(1 << 18):
                        digest.update(piece)
                        size += len(piece)
                        headers["range"] = f"bytes={size}-"
                        if self._stopped.is_set():
                            return True
                        time.sleep(0.03)
            except httpx.TransportError as error:
                self.outcomes[type(error).__name__] += 1
                if size:
                    interrupted = True
                    self.interrupted += film is self.long
                time.sleep(RETRY_S)
                continue
            self._check(film, digest.hexdigest(), possible())
            self.resumed += interrupted
            return True
        return True

    def _list(self, http: httpx.Client, _rng: random.Random, _number: int) -> None:
        """List all films, and check the version of each."""
        checks = [film.possible_since() for film in self.films]
        response = http.get("/files", params={"folder": FOLDER, "recursive": True, "limit": 1000})
        if self._is_expected(response, 200):
            listed = {item["path"]: item["sha256"] for item in response.json()["items"]}
            for film, possible in zip(self.films, checks, strict=True):
                # Without a hash yet, if the outcome of an upload remained unknown: downloads check its bytes.
                if listed.get(film.path, "") is not None:
                    self._check(film, listed.get(film.path), possible())
            self._check(self.long, listed.get(self.long.path), {*self.long.possible})

    def _is_expected(self, response: httpx.Response, *expected: int) -> bool:
        self.outcomes[response.status_code] += 1
        if response.status_code in expected:
            return True
        if response.status_code < 500:
            self._report(f"{response.request.method} {response.request.url.path}: {response.status_code}")
        time.sleep(RETRY_S)
        return False

    def _check(self, film: Film, version: Version, possible: set[Version]) -> None:
        if version not in possible:
            last = [f"{attempt}"[:6] for attempt in film.attempted[-8:]]
            self._report(f"{film.path} was {version}, and must be one of {possible}; last attempts: {last}")

    def _report(self, violation: str) -> None:
        self.violations.append(f"{time.monotonic() - self._began:.2f} s: {violation}")

    def check_stored(self, http: httpx.Client) -> None:
        """Check, when the crowd has stopped, that a server has the last acknowledged version of each film."""
        for film in (*self.films, self.long):
            response = http.get(f"/files/{film.path}")
            assert response.status_code in (200, 404), (film.path, response.status_code)
            version = hashlib.sha256(response.content).hexdigest() if response.status_code == 200 else None
            self._check(film, version, {*film.possible})
