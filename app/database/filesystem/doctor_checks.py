"""What a folder can do, found out by trying, without leaving anything in it."""

import contextlib
import errno
import fcntl
import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from app.database.filesystem.permissions import is_exposed
from app.database.filesystem.read_only import is_on_read_only_file_system
from app.storage.types import RESERVED

_SYNCS = 5


@dataclass(frozen=True)
class FolderFacts:
    """Of a folder for files, or, where it is still to be made, of the one that it will be in."""

    exists: bool
    writable: bool
    full: bool = False
    """Whether nothing more could be tried, because its file system or this user's quota has no room left."""
    read_only: bool = False
    """Whether it is served as it is: its file system is read-only, or the settings want that."""
    links: bool = False
    """Whether a file may have two names."""
    locks: bool = False
    exposed: bool = False
    """Whether other users of the machine have rights to the reserved folder."""
    ignores_case: bool = False
    """Whether names that differ in case alone are one name."""
    sendfile: bool = False
    """Whether the kernel sends its files without a copy."""
    free: int = 0
    """Bytes that this user may still write."""
    kind: str = ""
    """Of the file system, as mount(8) names it; empty where the system does not say."""
    options: frozenset[str] = frozenset()
    """That it is mounted with."""
    sync_s: float = 0.0
    """How long a short fsync takes, about."""


def examine_folder(path: Path, *, read_only: bool = False) -> FolderFacts:
    """Try it; of one that is served read-only, nothing but to look. Does not raise."""
    path = Path(os.path.realpath(path))
    exists = path.is_dir()
    if read_only or is_on_read_only_file_system(path):
        return _looked_at(path, exists)
    at = next(place for place in (path / RESERVED, path, *path.parents) if place.is_dir())
    kind, options = _mount(at)
    try:
        free = os.statvfs(at)
        with tempfile.TemporaryDirectory(prefix="doctor-", dir=at) as place, _probe(place) as (name, file):
            return FolderFacts(
                exists,
                writable=True,
                links=_works(lambda: os.link(name, name + "-too")),
                locks=_works(lambda: fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)),
                exposed=is_exposed(path / RESERVED),
                ignores_case=os.path.exists(os.path.join(place, "PROBE")),
                sendfile=_works(lambda: _send(file)),
                free=free.f_bavail * free.f_frsize,
                kind=kind,
                options=options,
                sync_s=min(_sync(file) for _ in range(_SYNCS)),
            )
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        return FolderFacts(exists, writable=full, full=full, kind=kind, options=options)


def ignores_case(path: Path) -> bool:
    """Return whether names that differ in case alone are one name in a library, which is there."""
    return os.path.exists(path / RESERVED / "ID")


def _looked_at(path: Path, exists: bool) -> FolderFacts:
    kind, options = _mount(path)
    readable = exists and os.access(path, os.R_OK | os.X_OK)
    odd = ignores_case(path)
    return FolderFacts(readable, writable=False, read_only=True, ignores_case=odd, kind=kind, options=options)


@contextlib.contextmanager
def _probe(place: str) -> Iterator[tuple[str, int]]:
    name = os.path.join(place, "probe")
    descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, bytes(4096))
        yield name, descriptor
    finally:
        os.close(descriptor)


def _works(attempt: Callable[[], object]) -> bool:
    try:
        attempt()
    except (OSError, AttributeError):
        return False
    return True


def _send(file: int) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        if os.sendfile(ours.fileno(), file, 0, 4096) == 0:
            raise OSError("nothing was sent")


def _sync(file: int) -> float:
    os.pwrite(file, os.urandom(4096), 0)
    began = time.perf_counter()
    os.fsync(file)
    return time.perf_counter() - began


def _mount(path: Path) -> tuple[str, frozenset[str]]:
    """Kind and options of the file system that a path is on (Linux: proc(5), mountinfo)."""
    try:
        lines = Path("/proc/self/mountinfo").read_text(errors="replace").splitlines()
    except OSError:
        return "", frozenset()
    best: tuple[int, str, frozenset[str]] = (-1, "", frozenset())
    for line in lines:
        before, _, after = line.partition(" - ")
        fields, (kind, _, own) = before.split(), after.split(" ", 2)
        point = Path(fields[4].replace("\\040", " "))
        if path.is_relative_to(point) and len(point.parts) >= best[0]:
            best = len(point.parts), kind, frozenset(fields[5].split(",")) | frozenset(own.split(","))
    return best[1:]
