"""Many clients of equal servers, who know what each answer may be: what was acknowledged is what every server
answers from then on."""

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
"""The SHA-256 of a film; None where there is none."""

FOLDER = "crowd"
LONG = noise(2 << 20) * 16
PAUSE_S = 0.05
"""Between two tries of who was refused."""

REST_S = 0.02
"""Between two things that a client does: all of them share this process, and need not fill it."""


@dataclass
class Film:
    """One path, which one client changes and all read."""

    path: str
    may_be: frozenset[Version] = frozenset({None})
    """What may be stored now: more than one version, if it is not known what became of a change."""
    begun: list[Version] = field(default_factory=list)
    """Every change that was ever begun."""

    def begin(self, version: Version) -> None:
        self.begun.append(version)
        self.may_be |= {version}

    def acknowledged(self, version: Version) -> None:
        self.may_be = frozenset({version})

    def since(self) -> Callable[[], set[Version]]:
        """Call it at the end of a look, for all that the look may have found."""
        before, already = self.may_be, len(self.begun)
        return lambda: {*before, *self.begun[already:]}


class Crowd:
    """So many clients: a third writes, a third watches, and a third lists."""

    def __init__(self, connect: Callable[[], httpx.Client], clients: int) -> None:
        self._connect = connect
        self._clients = clients
        self._over = threading.Event()
        self._numbers = itertools.count()
        self.films = [Film(f"{FOLDER}/{number % 7}/{number}.mp4") for number in range(clients // 3 * 3)]
        self.long = Film(f"{FOLDER}/long.mp4")
        """It takes four seconds to watch, and stays."""
        self.faults: list[str] = []
        """What was wrong."""
        self.outcomes: Counter[object] = Counter()
        """How often each status was answered, and each error met."""
        self.broken = 0
        """How often it happened to the long film."""
        self.mended = 0
        """Downloads that were broken, gone on with by a range, and whole in the end."""

    @contextmanager
    def busy(self) -> Iterator[None]:
        """All at work inside."""
        with self._connect() as http:
            self._put(http, self.long, LONG)
        kinds = (self._write, self._watch, self._look)
        with ThreadPoolExecutor(self._clients) as pool:
            going: list[Future[None]] = [
                pool.submit(self._work, kinds[number % 3], number) for number in range(self._clients)
            ]
            try:
                yield
            finally:
                self._over.set()
            for each in going:
                each.result()

    def succeeded(self) -> int:
        return sum(count for what, count in self.outcomes.items() if what in (200, 201, 204, 206))

    def _work(self, kind: Callable[[httpx.Client, random.Random, int], None], number: int) -> None:
        chance = random.Random(number)
        with self._connect() as http:
            while not self._over.is_set():
                try:
                    kind(http, chance, number)
                    time.sleep(REST_S)
                except httpx.TransportError as error:
                    self.outcomes[type(error).__name__] += 1
                    time.sleep(PAUSE_S)

    def _write(self, http: httpx.Client, chance: random.Random, number: int) -> None:
        """Change one of three films that are this client's alone."""
        film = self.films[number // 3 * 3 + chance.randrange(3)]
        if None not in film.may_be and chance.random() < 0.15:
            film.begin(None)
            if self._answered(http.delete(f"/files/{film.path}"), 204, 404):
                film.acknowledged(None)
            return
        start = chance.randrange(1 << 20)
        self._put(http, film, noise(2 << 20)[start : start + chance.randrange(1, 600_000)])

    def _put(self, http: httpx.Client, film: Film, data: bytes) -> None:
        data += b"%d" % next(self._numbers)  # no two are alike
        version = hashlib.sha256(data).hexdigest()
        film.begin(version)
        if self._answered(http.put(f"/files/{film.path}", content=data), 201, 204):
            film.acknowledged(version)

    def _watch(self, http: httpx.Client, chance: random.Random, number: int) -> None:
        """Read a film to its end, through whatever happens meanwhile."""
        film = self.long if number % 2 else chance.choice(self.films)
        while not self._over.is_set() and not self._watched(http, film):
            pass  # it was replaced while it was watched: from the start

    def _watched(self, http: httpx.Client, film: Film) -> bool:
        """Whether it was one version, to its end or the crowd's."""
        found, digest, size, broken = film.since(), hashlib.sha256(), 0, False
        headers: dict[str, str] = {}
        while not self._over.is_set():
            try:
                with http.stream("GET", f"/files/{film.path}", headers=headers) as answer:
                    if not self._answered(answer, 200, 206, 404, 412):
                        continue
                    if answer.status_code == 412:
                        return False
                    if answer.status_code == 404:
                        self._check(film, None, found())
                        return True
                    headers["if-match"] = answer.headers["etag"]
                    for piece in answer.iter_raw(1 << 18):
                        digest.update(piece)
                        size += len(piece)
                        headers["range"] = f"bytes={size}-"
                        if self._over.is_set():
                            return True
                        time.sleep(0.03)
            except httpx.TransportError as error:
                self.outcomes[type(error).__name__] += 1
                if size:
                    broken = True
                    self.broken += film is self.long
                time.sleep(PAUSE_S)
                continue
            self._check(film, digest.hexdigest(), found())
            self.mended += broken
            return True
        return True

    def _look(self, http: httpx.Client, _chance: random.Random, _number: int) -> None:
        """List all films."""
        found = [film.since() for film in self.films]
        answer = http.get("/files", params={"folder": FOLDER, "recursive": True, "limit": 1000})
        if self._answered(answer, 200):
            listed = {item["path"]: item["sha256"] for item in answer.json()["items"]}
            for film, may_be in zip(self.films, found, strict=True):
                self._check(film, listed.get(film.path), may_be())
            self._check(self.long, listed.get(self.long.path), {*self.long.may_be})

    def _answered(self, answer: httpx.Response, *well: int) -> bool:
        self.outcomes[answer.status_code] += 1
        if answer.status_code in well:
            return True
        if answer.status_code < 500:
            self.faults.append(f"{answer.request.method} {answer.request.url.path}: {answer.status_code}")
        time.sleep(PAUSE_S)
        return False

    def _check(self, film: Film, version: Version, may_be: set[Version]) -> None:
        if version not in may_be:
            self.faults.append(f"{film.path} was {version}, and has to be one of {may_be}")

    def check_stored(self, http: httpx.Client) -> None:
        """When all is quiet: by one server, every film is what was acknowledged last."""
        for film in (*self.films, self.long):
            answer = http.get(f"/files/{film.path}")
            assert answer.status_code in (200, 404), (film.path, answer.status_code)
            version = hashlib.sha256(answer.content).hexdigest() if answer.status_code == 200 else None
            self._check(film, version, {*film.may_be})
