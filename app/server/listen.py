"""The sockets that the server listens on, taken before anything else is touched."""

import errno
import os
import socket

from app.settings import ConfigurationError

BACKLOG = 2048
"""Connections that the system keeps for us until we take them."""

_TRIES = 20  # to find a port that is free on all addresses of a host
_ABSENT = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}  # such as ::1 where there is no IPv6


def authority(host: str, port: int) -> str:
    """Host and port as a URL has them."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def reachable(host: str, port: int) -> str:
    """Return host and port for a client on this machine: a wildcard is none to connect to."""
    return authority({"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(host, host), port)


def place_of(listener: socket.socket) -> str:
    """Where it listens, as a URL or as nginx names Unix sockets."""
    address = listener.getsockname()
    if isinstance(address, bytes) and address.startswith(b"\0"):  # abstract: in no file system (unix(7))
        return f"unix:@{os.fsdecode(address[1:])}"
    if listener.family == socket.AF_UNIX:
        return f"unix:{os.path.abspath(os.fsdecode(address))}"
    return f"http://{authority(*address[:2])}"


def listen(host: str, port: int) -> list[socket.socket]:
    """Listeners on all addresses of the host, on one port; 0 takes one that is free on all of them.

    Raises ConfigurationError.
    """
    for _ in range(_TRIES):
        try:
            return _listen(host, port)
        except (ValueError, socket.gaierror):
            raise ConfigurationError(
                f"{host} is not the name of an address. Choose another with --host or SEEKABLE_HOST."
            ) from None
        except OSError as error:
            if port == 0 and error.errno == errno.EADDRINUSE:
                continue  # free on one address, taken on another
            raise ConfigurationError(_why_not(error, host, port)) from None
    raise ConfigurationError(f"No port is free on all addresses of {host}.")


def _listen(host: str, port: int) -> list[socket.socket]:
    listeners: list[socket.socket] = []
    absent: OSError | None = None
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    try:
        for family, _, _, _, (address, wanted, *scope) in dict.fromkeys(found):
            taken = listeners[0].getsockname()[1] if listeners else wanted
            try:
                listeners.append(_listener(family, (address, taken, *scope)))
            except OSError as error:
                if error.errno not in _ABSENT:
                    raise
                absent = error
        if absent is not None and not listeners:
            raise absent
    except OSError:
        for listener in listeners:
            listener.close()
        raise
    return listeners


def _listener(family: int, address: tuple[str | int | bytes, ...]) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":  # elsewhere it would let two programs have one port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
        listener.listen(BACKLOG)  # now: until somebody listens, another program can bind the same port
    except OSError:
        listener.close()
        raise
    return listener


def _why_not(error: OSError, host: str, port: int) -> str:
    """Why nobody can listen there, and what to do about it."""
    another_port = "Choose another with --port or SEEKABLE_PORT; 0 takes a free one."
    another_host = "Choose another with --host or SEEKABLE_HOST."
    match error.errno:
        case errno.EADDRINUSE:
            return f"Port {port} of {host} is taken by another program. {another_port}"
        case errno.EACCES | errno.EPERM:
            return f"Port {port} of {host} needs rights that this user does not have. {another_port}"
        case errno.EADDRNOTAVAIL | errno.EAFNOSUPPORT:
            return f"{host} is not an address of this machine. {another_host}"
    return f"Nobody can listen on port {port} of {host}: {error.strerror}. {another_port}"


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
    return [_activated(descriptor) for descriptor in range(_FIRST, _FIRST + count)]


def _activated(descriptor: int) -> socket.socket:
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
