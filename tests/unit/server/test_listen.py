"""Listening on one port on every address of a host."""

import errno
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from threading import Event
from types import SimpleNamespace
from typing import NamedTuple

import psutil
import pytest

from app.server.listen import ListenError, authority, listen, mdns_name, network_hosts
from tests.support import find_external_addresses

ABSENT = "192.0.2.1"  # assigned to no machine (RFC 5737)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def resolves_every_word(monkeypatch: pytest.MonkeyPatch) -> None:
    """Resolve every word of a host, as /etc/hosts may give one name several addresses, some of them twice."""
    resolve = socket.getaddrinfo

    def getaddrinfo(host: str | None, port: int, *arguments: object, **options: object) -> list[object]:
        names = host.split() if host else [host]
        return [address for name in names for address in resolve(name, port, *arguments, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def occupy(stack: ExitStack, address: str) -> int:
    """Listen on a free port of this address alone; return the port."""
    other = stack.enter_context(socket.socket())
    other.bind((address, 0))
    other.listen()
    port: int = other.getsockname()[1]
    return port


def listen_on(stack: ExitStack, host: str, port: int) -> list[tuple[str, int]]:
    return [stack.enter_context(listener).getsockname()[:2] for listener in listen(host, port)]


@pytest.mark.usefixtures("resolves_every_word")
def test_listen_uses_one_port_on_all_addresses_of_a_name(stack: ExitStack) -> None:
    (first, port), (second, same) = listen_on(stack, "127.0.0.1 127.0.0.2 127.0.0.1", 0)
    assert (first, second, same) == ("127.0.0.1", "127.0.0.2", port)
    for address in (first, second):
        stack.enter_context(socket.create_connection((address, port), timeout=5))


@pytest.mark.usefixtures("resolves_every_word")
def test_listen_fails_when_port_is_taken_on_one_address(stack: ExitStack) -> None:
    port = occupy(stack, "127.0.0.2")
    with pytest.raises(ListenError, match=f"Port {port} of .* is taken"):
        listen("127.0.0.1 127.0.0.2", port)
    assert listen_on(stack, "127.0.0.1", port) == [("127.0.0.1", port)], (
        "the port on the first address was not released"
    )


@pytest.mark.usefixtures("resolves_every_word")
def test_listen_skips_absent_address(stack: ExitStack) -> None:
    ((address, _),) = listen_on(stack, f"{ABSENT} 127.0.0.1 {ABSENT}", 0)
    assert address == "127.0.0.1"
    with pytest.raises(ListenError, match="not an address of this machine"):
        listen(ABSENT, 0)


@pytest.mark.usefixtures("resolves_every_word")
def test_listen_retries_until_free_port_is_free_on_all_addresses(
    stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first two ports that the kernel assigns are taken on the other address."""
    ports = [occupy(stack, "127.0.0.2") for _ in range(2)]
    bind = socket.socket.bind

    class Socket(socket.socket):
        def bind(self, address: tuple[str, int]) -> None:  # type: ignore[override]
            bind(self, (address[0], ports.pop() if address[1] == 0 and ports else address[1]))

    monkeypatch.setattr(socket, "socket", Socket)
    (_, port), (_, same) = listen_on(stack, "127.0.0.1 127.0.0.2", 0)
    assert ports == []
    assert port == same


def test_listen_reuses_port_of_a_server_that_just_ended(stack: ExitStack) -> None:
    (listener,) = listen("127.0.0.1", 0)
    port = listener.getsockname()[1]
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        server, _ = listener.accept()
        server.close()  # first, so that TIME_WAIT is on its side
        listener.close()
        client.recv(1)
    assert listen_on(stack, "127.0.0.1", port) == [("127.0.0.1", port)]


def test_ipv6_listener_does_not_accept_ipv4(stack: ExitStack) -> None:
    try:
        ((_, port),) = listen_on(stack, "::1", 0)
    except ListenError:
        pytest.skip("this machine has no IPv6")
    assert authority("::1", port) == f"[::1]:{port}"
    ((_, wildcard),) = listen_on(stack, "::", 0)
    with socket.socket() as client:
        assert client.connect_ex(("127.0.0.1", wildcard)) == errno.ECONNREFUSED


# Addresses for other machines


class Interface(NamedTuple):
    """One network interface, as psutil describes it."""

    addresses: tuple[str, ...]
    is_up: bool = True


INTERFACES = {
    "lo": Interface(("127.0.0.1", "::1")),
    "wlan0": Interface(("192.168.1.20", "fd00::20", "fe80::1%wlan0", "169.254.3.4")),
    "eth0": Interface(("10.0.0.5", "2001:db8::5")),
    "eth1": Interface(("10.9.9.9",), is_up=False),
    "docker0": Interface(("172.17.0.1",)),
    "br-1f2e3d": Interface(("172.18.0.1",)),
}


@pytest.fixture
def interfaces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the network interfaces of this machine."""

    def described(address: str) -> SimpleNamespace:
        return SimpleNamespace(family=socket.AF_INET6 if ":" in address else socket.AF_INET, address=address)

    addresses = {name: [*map(described, one.addresses)] for name, one in INTERFACES.items()}
    status = {name: SimpleNamespace(isup=one.is_up) for name, one in INTERFACES.items()}
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: addresses)
    monkeypatch.setattr(psutil, "net_if_stats", lambda: status)


@pytest.mark.usefixtures("interfaces")
@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("0.0.0.0", ["192.168.1.20", "10.0.0.5"]),
        ("::", ["fd00::20", "2001:db8::5"]),
        ("127.0.0.1", []),
        ("::1", []),
    ],
)
def test_network_hosts_are_addresses_that_others_can_reach(
    host: str, expected: list[str], stack: ExitStack
) -> None:
    try:
        listeners = [stack.enter_context(listener) for listener in listen(host, 0)]
    except ListenError:
        pytest.skip("this machine has no IPv6")
    sources = {socket.AF_INET: "192.168.1.20", socket.AF_INET6: "fd00::20"}  # of wlan0
    assert network_hosts(listeners, source=sources.get) == expected


def test_network_host_is_the_address_that_was_given(stack: ExitStack) -> None:
    for address in find_external_addresses():
        (listener,) = listen(address, 0)
        assert network_hosts([stack.enter_context(listener)]) == [address]


def test_network_hosts_ignore_unix_sockets(stack: ExitStack) -> None:
    assert network_hosts([stack.enter_context(socket.socket(socket.AF_UNIX))]) == []


def resolve_to(address: str) -> Callable[..., list[object]]:
    def getaddrinfo(name: str, port: object) -> list[object]:
        assert name == "nas.local"
        if not address:
            raise socket.gaierror
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0))]

    return getaddrinfo


@pytest.mark.parametrize(
    ("address", "expected"),
    [("192.168.1.20", "nas.local"), ("127.0.1.1", None), ("10.1.1.1", None), ("", None)],
)
def test_mdns_name_is_given_only_if_it_resolves_to_this_machine(
    address: str, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "NAS.example.org")
    monkeypatch.setattr(socket, "getaddrinfo", resolve_to(address))
    assert mdns_name(["192.168.1.20", "10.0.0.5"]) == expected


def test_mdns_name_is_not_awaited_when_no_responder_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: [] * ended.wait(10))
    began = time.monotonic()
    assert mdns_name(["192.168.1.20"]) is None
    assert time.monotonic() - began < 5
    ended.set()
