"""How long the database and the disk take for what is asked of them, and what upkeep finds."""

import time
from collections.abc import Callable, Generator
from functools import partial
from typing import Any, Protocol, TypeVar, cast

from app.storage.backend import Backend, Reader
from app.storage.errors import OutOfSpace, StorageError, StorageUnavailable, Truncated
from app.storage.maintenance import Scanned
from app.storage.types import Address

T = TypeVar("T")

TIMED = (
    "check",
    "stage",
    "commit",
    "delete",
    "move",
    "page",
    "folders",
    "libraries",
    "usage",
    "ping",
)
"""What is timed as it is. To open is too, unless it is said at once (`try_open`) and asks nobody."""

FAILURES = (StorageUnavailable, OutOfSpace, Truncated)
"""Errors of the storage that are not answers to a question."""


class Observer(Protocol):
    """Who hears of it, from any thread."""

    def asked(self, operation: str, seconds: float, *, failed: bool) -> None: ...

    def scanned(self, step: Scanned) -> None: ...

    def scan_ended(self, *, failed: bool) -> None: ...

    def hashed(self, size: int) -> None: ...


def observed(observer: Observer, backend: Backend) -> Backend:
    """The backend, with everything that may wait timed."""
    return cast(Backend, _Observed(backend, observer))


class _Observed:
    def __init__(self, backend: Backend, observer: Observer) -> None:
        self._backend = backend
        self._observer = observer
        self.try_open = backend.try_open  # as it is: every range asks it, on the event loop
        for name in TIMED:
            setattr(self, name, _timed(observer, name, getattr(backend, name)))
        self._open = _timed(observer, "open", backend.open)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def open(self, address: Address, *, wait: bool) -> Reader | None:
        reader = self._open(address, wait=wait)
        if reader is None or reader.fileno() is not None:  # else the kernel reads it, without our knowing
            return reader
        return cast(Reader, _ObservedReader(reader, self._observer))

    def scan(self) -> Generator[Scanned]:
        try:
            for step in self._backend.scan():
                self._observer.scanned(step)
                yield step
        except StorageError:
            self._observer.scan_ended(failed=True)
            raise
        self._observer.scan_ended(failed=False)

    def hash_unverified(self) -> Generator[int]:
        for size in self._backend.hash_unverified():
            self._observer.hashed(size)
            yield size


class _ObservedReader:
    def __init__(self, reader: Reader, observer: Observer) -> None:
        self._reader = reader
        self.read = _timed(observer, "read", reader.read)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)


def _timed(observer: Observer, operation: str, function: Callable[..., T]) -> Callable[..., T]:
    return partial(_run, observer, operation, function)


def _run(observer: Observer, operation: str, function: Callable[..., T], *arguments: Any, **named: Any) -> T:
    began = time.perf_counter()
    failed = True
    try:
        result = function(*arguments, **named)
        failed = False
    except StorageError as error:
        failed = isinstance(error, FAILURES)
        raise
    finally:
        observer.asked(operation, time.perf_counter() - began, failed=failed)
    return result
