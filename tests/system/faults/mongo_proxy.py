"""A proxy between a server and its mongod, which can fail at a given command."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


def command_prefix(name: str, collection: str) -> bytes:
    """Return the first bytes of a command on a collection (BSON, a string field; bsonspec.org)."""
    value = collection.encode() + b"\0"
    return b"\x02" + name.encode() + b"\0" + len(value).to_bytes(4, "little") + value


def split_before(messages: bytes, command: bytes) -> tuple[bytes, bytes]:
    """Split messages that were sent together before the one with the command."""
    start, found = 0, messages.index(command)
    while start + (length := int.from_bytes(messages[start : start + 4], "little")) <= found and length > 0:
        start += length
    return messages[:start], messages[start:]


class MongoProxy:
    """A proxy that forwards connections to mongod, and fails at the command that a test gives it.

    One failure at a time; each affects the next command with that prefix.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._connections: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._command: bytes | None = None
        self._deliver = True
        self._drops_replies = False
        self._next_commands: list[bytes] = []
        self._without_replies: set[socket.socket] = set()
        self._breaks_connection = False
        self._broken: set[socket.socket] = set()
        self._release: threading.Event | None = None
        self.is_holding = threading.Event()
        self.is_cut = threading.Event()
        self._start(self._accept)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def hold_at(self, command: bytes) -> None:
        """Hold the command back until `release`."""
        self._release = threading.Event()
        self._command = command

    def release(self) -> None:
        assert self._release is not None
        self._release.set()
        self._release = None
        self.is_holding.clear()

    def release_and_hold_at(self, command: bytes) -> None:
        """Deliver the held command, and hold the next `command` back."""
        assert self._release is not None
        previous = self._release
        self.is_holding.clear()
        self.hold_at(command)
        previous.set()

    def break_connection_at(self, command: bytes) -> None:
        """Break the connection of the command when its reply arrives; others work."""
        self._breaks_connection, self._command = True, command

    def drop_replies_to(self, *commands: bytes) -> None:
        """Drop all further replies on the connections of these commands, which come in this order."""
        self._drops_replies = True
        self._command, *self._next_commands = commands

    def cut_at(self, command: bytes, *, deliver: bool) -> None:
        """Drop all further data in both directions, as a failed network does.

        The command itself still reaches mongod if `deliver` is set.
        """
        self._deliver, self._command = deliver, command

    def restore(self) -> None:
        """Close all connections; new ones work again."""
        self._command = None
        self.is_cut.clear()
        connections, self._connections = self._connections, []
        for connection in connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self.restore()
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _start(self, target: object, *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                try:
                    server = socket.create_connection(("127.0.0.1", self._port))
                except OSError:
                    client.close()
                    continue
                self._connections += [client, server]
                self._start(self._forward, client, server, True)
                self._start(self._forward, server, client, False)

    def _forward(self, source: socket.socket, target: socket.socket, is_request: bool) -> None:
        with source, suppress(OSError):
            while data := source.recv(1 << 20):
                if self.is_cut.is_set():
                    continue
                if source in self._broken:
                    break
                if source in self._without_replies:
                    continue
                if is_request and self._command is not None and self._command in data:
                    if (release_event := self._release) is not None:
                        before, data = split_before(data, self._command)
                        target.sendall(before)
                        self._command = None
                        self.is_holding.set()
                        release_event.wait(10)
                        target.sendall(data)
                        continue
                    if self._drops_replies:
                        self._without_replies.add(target)
                        self._command = self._next_commands.pop(0) if self._next_commands else None
                        self._drops_replies = self._command is not None
                        target.sendall(data)
                        continue
                    if self._breaks_connection:
                        self._command, self._breaks_connection = None, False
                        self._broken.add(target)
                        target.sendall(data)
                        continue
                    self.is_cut.set()
                    if not self._deliver:
                        continue
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)


@contextmanager
def mongo_proxy(port: int) -> Iterator[MongoProxy]:
    proxy = MongoProxy(port)
    try:
        yield proxy
    finally:
        proxy.close()
