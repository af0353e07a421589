"""Listening sockets, bound before anything else is opened or passed by systemd (sd_listen_fds(3)), and the
addresses at which clients reach them."""

import errno
import os
import socket
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from ipaddress import ip_address
from threading import Thread

from app.http.addresses import is_loopback

BACKLOG = 2048
"""The listen(2) backlog."""

_TRIES = 20
"""Attempts to find a port that is free on all addresses of a host."""

_ABSENT = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}  # such as ::1 where there is no IPv6


class ListenError(Exception):
    """The server cannot listen. The message is a sentence with the remedy."""


def authority(host: str, port: int) -> str:
    """Return the authority of a URL (RFC 3986 §3.2)."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def reachable(host: str, port: int) -> str:
    """Return the authority to which a client on this machine connects: a wildcard becomes loopback."""
    return authority({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port)


_INTERNAL = (
    "docker",
    "br-",
    "veth",
    "virbr",
    "lxcbr",
    "lxdbr",
    "incusbr",
    "podman",
    "cni",
    "flannel",
    "cali",
)
"""Beginnings of the names of interfaces that lead to containers and virtual machines of this machine only."""

_MDNS_TIMEOUT_S = 0.5
"""Seconds to wait for this machine's own name in mDNS: without a responder, a lookup may take long."""


def source_to_others(family: int) -> str | None:
    """Return the address from which this machine connects to others."""
    outside = "192.0.2.1" if family == socket.AF_INET else "2001:db8::1"
    with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((outside, 9))  # sends nothing
        return str(probe.getsockname()[0])
    return None


def network_hosts(
    listeners: Sequence[socket.socket], *, source: Callable[[int], str | None] = source_to_others
) -> list[str]:
    """Return the addresses at which other machines reach the listeners, that of the default route first."""
    bound = [(one.family, one.getsockname()[0]) for one in listeners if one.family != socket.AF_UNIX]
    hosts: list[str] = []
    for family, host in bound:
        if ip_address(host).is_unspecified:
            hosts += machine_hosts(family, source=source)
        elif not is_loopback(host):
            hosts.append(host)
    return hosts


def machine_hosts(family: int, *, source: Callable[[int], str | None] = source_to_others) -> list[str]:
    """Return the addresses at which other machines reach this one, that of the default route first.

    Addresses of a single link are left out.
    """
    import psutil  # noqa: PLC0415 - no other start needs it

    try:
        down = {name for name, status in psutil.net_if_stats().items() if not status.isup}
    except OSError:  # a hardened service sees no /proc/net
        down = set()
    found = {
        one.address
        for name, addresses in psutil.net_if_addrs().items()
        if name not in down and not name.startswith(_INTERNAL)
        for one in addresses
        if one.family == family and "%" not in one.address
    }
    found = {one for one in found if not (is_loopback(one) or ip_address(one).is_link_local)}
    first = source(family)
    return sorted(found, key=lambda one: (one != first, ip_address(one).packed))


def mdns_name(hosts: Collection[str]) -> str | None:
    """Return the name of this machine in mDNS (RFC 6762) if it resolves to one of these addresses."""
    name = f"{socket.gethostname().lower().partition('.')[0]}.local"
    found: set[str] = set()

    def resolve() -> None:
        with suppress(OSError, UnicodeError):
            found.update(str(address[0]) for *_, address in socket.getaddrinfo(name, None))

    lookup = Thread(target=resolve, daemon=True)
    lookup.start()
    lookup.join(_MDNS_TIMEOUT_S)
    return name if found & set(hosts) else None


def listener_url(listener: socket.socket) -> str:
    """Return the URL of a listener; for a Unix socket `unix:PATH`, as nginx writes it."""
    address = listener.getsockname()
    if isinstance(address, bytes) and address.startswith(b"\0"):  # an abstract address (unix(7))
        return f"unix:@{os.fsdecode(address[1:])}"
    if listener.family == socket.AF_UNIX:
        return f"unix:{os.path.abspath(os.fsdecode(address))}"
    return f"http://{authority(*address[:2])}"


def listen(host: str, port: int) -> list[socket.socket]:
    """Listen on all addresses of a host, on one port; 0 selects a free one. Raises ListenError."""
    for _ in range(_TRIES):
        try:
            return _listen(host, port)
        except (ValueError, socket.gaierror):
            raise ListenError(
                f"{host} is not the name of an address. Choose another with --host or SEEKABLE_HOST."
            ) from None
        except OSError as error:
            if port == 0 and error.errno == errno.EADDRINUSE:
                continue  # free on one address, taken on another
            raise ListenError(_explain(error, host, port)) from None
    raise ListenError(f"No port is free on all addresses of {host}. Choose one with --port or SEEKABLE_PORT.")


def _listen(host: str, port: int) -> list[socket.socket]:
    listeners: list[socket.socket] = []
    absent: OSError | None = None
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
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
        if os.name == "posix":  # on Windows it would let two programs share the port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
        listener.listen(BACKLOG)  # at once: until then another program can bind the same port
    except OSError:
        listener.close()
        raise
    return listener


def _explain(error: OSError, host: str, port: int) -> str:
    another_port = "Choose another with --port or SEEKABLE_PORT; `-p 0` takes a free one."
    another_host = "Choose another with --host or SEEKABLE_HOST."
    match error.errno:
        case errno.EADDRINUSE:
            return f"Port {port} of {host} is taken by another program. {another_port}"
        case errno.EACCES | errno.EPERM:
            return f"Port {port} of {host} needs rights that this user does not have. {another_port}"
        case errno.EADDRNOTAVAIL | errno.EAFNOSUPPORT:
            return f"{host} is not an address of this machine. {another_host}"
    return f"The server cannot listen on port {port} of {host}: {error.strerror}. {another_port}"


_FIRST_DESCRIPTOR = 3
"""SD_LISTEN_FDS_START."""

_FAMILIES = {socket.AF_INET, socket.AF_INET6, socket.AF_UNIX}


def activated_listeners() -> list[socket.socket]:
    """Return the sockets that systemd passed. Raises ListenError unless all are listening streams."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    passed = os.environ.get("LISTEN_FDS", "0")
    count = int(passed) if passed.isdecimal() else 0
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):  # child processes must not inherit them
        os.environ.pop(name, None)
    return [_activated(descriptor) for descriptor in range(_FIRST_DESCRIPTOR, _FIRST_DESCRIPTOR + count)]


def _activated(descriptor: int) -> socket.socket:
    try:
        os.set_inheritable(descriptor, False)
        listener = socket.socket(fileno=descriptor)
        listens = listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise ListenError(
            f"Descriptor {descriptor} from systemd is not a socket: {error.strerror}."
        ) from None
    if listener.type != socket.SOCK_STREAM or listener.family not in _FAMILIES or not listens:
        raise ListenError(
            f"Descriptor {descriptor} from systemd does not listen for connections. Use ListenStream= and "
            "Accept=no in its socket unit."
        )
    return listener
