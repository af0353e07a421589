"""Listening on one port on every address of a host."""

import errno
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from app.server.listen import ListenError, authority, listen

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
