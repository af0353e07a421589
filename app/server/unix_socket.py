"""A Unix socket to listen on: made at a path, never taken from a server that lives, removed at the end."""

import errno
import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

from app.server.listen import BACKLOG
from app.settings import ConfigurationError

_UMASK = 0o117
"""Leaves 0660: connecting takes the right to write, and a peer counts as this machine. A proxy of another
user joins the group."""

_TRY_FOR_S = 1.0
"""Seconds that a server has to take a connection before it counts as alive but busy."""

_WHY_NOT = {
    errno.ENOENT: "The folder does not exist. Make it first.",
    errno.ENOTDIR: "The folder does not exist. Make it first.",
    errno.EACCES: "This user cannot write in the folder.",
    errno.EPERM: "This user cannot write in the folder.",
    errno.EROFS: "The file system is read-only.",
}


@contextmanager
def unix_listener(path: str) -> Iterator[socket.socket]:
    """Listen at the path inside the context. A socket that a killed server left there is replaced.

    Raises ConfigurationError if another program listens there, or if the path cannot hold a socket.
    """
    path = os.path.abspath(path)
    try:
        with _alone(os.path.dirname(path)):
            _remove_stale(path)
            listener = _bound(path)
    except OSError as error:
        # Python itself refuses a path that is too long, without an errno.
        reason = _WHY_NOT.get(error.errno or 0) or error.strerror or f"{error}."
        raise ConfigurationError(f"--uds {path}: {reason}") from None
    with closing(listener):
        made = _identity(path)
        try:
            yield listener
        finally:
            # Another server may have replaced it while our last transfers were running.
            with suppress(OSError), _alone(os.path.dirname(path)):
                if _identity(path) == made:
                    os.unlink(path)


@contextmanager
def _alone(folder: str) -> Iterator[None]:
    """Hold the lock of the folder: of two servers that start at once, neither takes the other's socket for a
    stale one."""
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
        raise ConfigurationError(f"--uds {path}: A file has this name, and it is no socket. Choose another.")
    if _is_alive(path):
        raise ConfigurationError(f"--uds {path}: Another program listens there. Choose another path.")
    os.unlink(path)


def _is_alive(path: str) -> bool:
    """Return whether a program has the socket open; only a refusal proves that none has."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(_TRY_FOR_S)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True
    return True


def _bound(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    umask = os.umask(_UMASK)  # a chmod afterwards would leave a moment in which more may connect
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
    # An inode number alone may be given to the next socket.
    found = os.lstat(path)
    return found.st_dev, found.st_ino, found.st_mtime_ns
