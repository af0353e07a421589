"""Taking a port on every address of a host."""

import errno
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from app.server.listen import authority, listen
from app.settings import ConfigurationError

ABSENT = "192.0.2.1"  # nobody has it (RFC 5737)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def several(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name with several addresses, some twice, as /etc/hosts has them."""
    resolve = socket.getaddrinfo

    def getaddrinfo(host: str | None, port: int, *arguments: object, **options: object) -> list[object]:
        names = host.split() if host else [host]
        return [found for name in names for found in resolve(name, port, *arguments, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def taken(stack: ExitStack, address: str) -> int:
    """A port that somebody has on this address alone."""
    other = stack.enter_context(socket.socket())
    other.bind((address, 0))
    other.listen()
    port: int = other.getsockname()[1]
    return port


def listening(stack: ExitStack, host: str, port: int) -> list[tuple[str, int]]:
    return [stack.enter_context(listener).getsockname()[:2] for listener in listen(host, port)]


@pytest.mark.usefixtures("several")
def test_all_addresses_of_a_name_share_one_port(stack: ExitStack) -> None:
    (first, port), (second, same) = listening(stack, "127.0.0.1 127.0.0.2 127.0.0.1", 0)
    assert (first, second, same) == ("127.0.0.1", "127.0.0.2", port)
    for address in (first, second):
        stack.enter_context(socket.create_connection((address, port), timeout=5))


@pytest.mark.usefixtures("several")
def test_a_port_that_is_taken_on_one_address_is_taken(stack: ExitStack) -> None:
    port = taken(stack, "127.0.0.2")
    with pytest.raises(ConfigurationError, match=f"Port {port} of .* is taken"):
        listen("127.0.0.1 127.0.0.2", port)
    assert listening(stack, "127.0.0.1", port) == [("127.0.0.1", port)], "the first was given back"


@pytest.mark.usefixtures("several")
def test_an_address_that_is_absent_is_left_out(stack: ExitStack) -> None:
    ((address, _),) = listening(stack, f"{ABSENT} 127.0.0.1 {ABSENT}", 0)
    assert address == "127.0.0.1"
    with pytest.raises(ConfigurationError, match="not an address of this machine"):
        listen(ABSENT, 0)


@pytest.mark.usefixtures("several")
def test_a_free_port_is_looked_for_until_it_is_free_everywhere(
    stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first two that the system gives are taken on the other address."""
    ports = [taken(stack, "127.0.0.2") for _ in range(2)]
    bind = socket.socket.bind

    class Socket(socket.socket):
        def bind(self, address: tuple[str, int]) -> None:  # type: ignore[override]
            bind(self, (address[0], ports.pop() if address[1] == 0 and ports else address[1]))

    monkeypatch.setattr(socket, "socket", Socket)
    (_, port), (_, same) = listening(stack, "127.0.0.1 127.0.0.2", 0)
    assert ports == []
    assert port == same


def test_the_port_of_a_server_that_just_ended_is_free(stack: ExitStack) -> None:
    (listener,) = listen("127.0.0.1", 0)
    port = listener.getsockname()[1]
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        server, _ = listener.accept()
        server.close()  # first, so that its side waits (TIME_WAIT)
        listener.close()
        client.recv(1)
    assert listening(stack, "127.0.0.1", port) == [("127.0.0.1", port)]


def test_ipv6_stands_for_itself_alone(stack: ExitStack) -> None:
    try:
        ((_, port),) = listening(stack, "::1", 0)
    except ConfigurationError:
        pytest.skip("this machine has no IPv6")
    assert authority("::1", port) == f"[::1]:{port}"
    ((_, everywhere),) = listening(stack, "::", 0)
    with socket.socket() as knocking:
        assert knocking.connect_ex(("127.0.0.1", everywhere)) == errno.ECONNREFUSED
