"""Listening Unix sockets: never taken over from a running server, and removed at the end."""

import errno
import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

from app.server.listen import BACKLOG, ListenError

_UMASK = 0o117
"""Results in mode 0660: connect(2) needs write permission, and clients count as this machine. A proxy that
runs as another user joins the group."""

_CONNECT_TIMEOUT_S = 1.0
"""Seconds after which a server that accepts no connection counts as busy, but running."""

_REASONS = {
    errno.ENOENT: "The folder does not exist. Make it first.",
    errno.ENOTDIR: "The folder does not exist. Make it first.",
    errno.EACCES: "This user cannot write in the folder.",
    errno.EPERM: "This user cannot write in the folder.",
    errno.EROFS: "The file system is read-only.",
}


@contextmanager
def unix_listener(path: str) -> Iterator[socket.socket]:
    """Listen at the path inside the context. The stale socket of a killed server is replaced.

    Raises ListenError if another program listens there, or if no socket can be created at the path.
    """
    path = os.path.abspath(path)
    try:
        with _folder_lock(os.path.dirname(path)):
            _remove_stale(path)
            listener = _bind(path)
    except OSError as error:
        # Python rejects a path that is too long itself, without an errno.
        reason = _REASONS.get(error.errno or 0) or error.strerror or f"{error}."
        raise ListenError(f"--uds {path}: {reason}") from None
    with closing(listener):
        identity = _identity(path)
        try:
            yield listener
        finally:
            # During our last transfers another server may have replaced it.
            with suppress(OSError), _folder_lock(os.path.dirname(path)):
                if _identity(path) == identity:
                    os.unlink(path)


@contextmanager
def _folder_lock(folder: str) -> Iterator[None]:
    """Lock the folder: a server that starts at the same time must not take our socket for a stale one."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _remove_stale(path: str) -> None:
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ListenError(
            f"--uds {path}: A file of this name exists, and it is not a socket. Choose another path."
        )
    if _has_listener(path):
        raise ListenError(f"--uds {path}: Another program listens there. Choose another path.")
    os.unlink(path)


def _has_listener(path: str) -> bool:
    """Return whether a program listens at the socket. Only a refused connection proves that none does."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(_CONNECT_TIMEOUT_S)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True
    return True


def _bind(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    umask = os.umask(_UMASK)  # with chmod(2) afterwards, others could connect in between
    try:
        listener.bind(path)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(umask)
    return listener


def _identity(path: str) -> tuple[int, int, int]:
    # The next socket may reuse the inode number.
    found = os.lstat(path)
    return found.st_dev, found.st_ino, found.st_mtime_ns
