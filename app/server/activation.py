"""Sockets that systemd opened for us (sd_listen_fds(3))."""

import os
import socket

from app.settings import ConfigurationError

_FIRST = 3
"""The descriptor of the first of them."""

_FAMILIES = {socket.AF_INET, socket.AF_INET6, socket.AF_UNIX}


def activated_listeners() -> list[socket.socket]:
    """Return the sockets that systemd passed to this process; empty if it was not started so.

    Raises ConfigurationError if one of them does not listen for streams.
    """
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    given = os.environ.get("LISTEN_FDS", "0")
    count = int(given) if given.isdecimal() else 0
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):  # they are meant for no child of ours
        os.environ.pop(name, None)
    return [_listener(descriptor) for descriptor in range(_FIRST, _FIRST + count)]


def _listener(descriptor: int) -> socket.socket:
    try:
        os.set_inheritable(descriptor, False)
        listener = socket.socket(fileno=descriptor)
        listens = listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise ConfigurationError(
            f"Descriptor {descriptor} of systemd's is no socket: {error.strerror}."
        ) from None
    if listener.type != socket.SOCK_STREAM or listener.family not in _FAMILIES or not listens:
        raise ConfigurationError(
            f"Descriptor {descriptor} of systemd's does not listen for connections: use ListenStream= and "
            "Accept=no in its socket unit."
        )
    return listener
