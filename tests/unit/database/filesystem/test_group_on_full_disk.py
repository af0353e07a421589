"""A group of small uploads whose disk or quota is full at one of its system calls, or from there on."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from threading import Lock
from typing import Any

import pytest

from app.storage.errors import NotFound, OutOfSpace
from app.storage.types import SHARED, Expect, Key
from tests.unit.database.library import Library, Upload, store_together

ONCE, FROM_THEN_ON = "once", "from then on"

QUICK = [(call, errno.ENOSPC, ONCE) for call in ("write", "fsync", "mkdir", "link", "rename", "unlink")]
LONG = [
    (call, code, how)
    for call in ("open", *(call for call, _, _ in QUICK))
    for code in (errno.ENOSPC, errno.EDQUOT)
    for how in (ONCE, FROM_THEN_ON)
    if (call, code, how) not in QUICK
]
CASES = [
    *(pytest.param(*case, id=case[0]) for case in QUICK),
    *(
        pytest.param(call, code, how, id=f"{call} {errno.errorcode[code]} {how}", marks=pytest.mark.campaign)
        for call, code, how in LONG
    ),
]


@contextmanager
def failing(call: str, number: int, code: int, *, how: str) -> Iterator[list[int]]:
    """Have the n-th call of an os function fail, and with FROM_THEN_ON all later ones.

    Yields a list with one element for each failure. The calls of SQLite are not affected.
    """
    real, calls, lock, failures = getattr(os, call), count(1), Lock(), list[int]()

    def fail(*arguments: Any, **options: Any) -> Any:
        with lock:
            found = next(calls)
        if found == number or (how == FROM_THEN_ON and found > number):
            failures.append(found)
            raise OSError(code, os.strerror(code))
        return real(*arguments, **options)

    setattr(os, call, fail)
    try:
        yield failures
    finally:
        setattr(os, call, real)


def state(library: Library, key: Key) -> bytes | None:
    """Return the stored bytes; None if there is no file. Assert that row, list and disk agree."""
    try:
        data, info = library.get(key)
    except NotFound:
        assert not library.path(key).exists()
        return None
    assert library.path(key).read_bytes() == data
    assert info.size == len(data)
    return data


@pytest.mark.parametrize(("call", "code", "how"), CASES)
def test_group_on_full_disk_stores_what_it_acknowledges(
    library: Library, call: str, code: int, how: str
) -> None:
    for number in count(1):
        uploads: list[Upload] = [
            (f"{number}/new/deep/film.mp4", b"new", Expect.ABSENT),
            (f"{number}/old.mp4", b"replaced", Expect.ANY),
            (f"other-{number}/film.mp4", b"other", Expect.ABSENT),
        ]
        before = {uploads[1][0]: b"old"}
        library.store(b"old", Key.at(SHARED, uploads[1][0]))
        with failing(call, number, code, how=how) as failures:
            results = store_together(library, *uploads)
        errors = [result.exception() for result in results]
        for error, (path, data, _) in zip(errors, uploads, strict=True):
            found = state(library, Key.at(SHARED, path))
            assert found == data if error is None else found in (before.get(path), data), (number, path)
            assert error is None or isinstance(error, OutOfSpace)
        if how == ONCE:
            assert sum(error is not None for error in errors) <= 1, "an upload has failed its neighbours"
        if call == "unlink":  # what could not be removed waits for a sweep
            library.backend.disk.sweep()
        assert library.staging() == []
        for path, _, _ in uploads:
            library.store(b"later", Key.at(SHARED, path))
            library.backend.delete(Key.at(SHARED, path), Expect.ANY)
        assert not (library.root / str(number)).exists(), "empty folders are left"
        if not failures:
            assert errors == [None] * len(uploads)
            break
    assert number > 1, "the call was never made"
