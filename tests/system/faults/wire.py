"""The network between a server and its mongod, which may be cut at the very command."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


def command(name: str, collection: str) -> bytes:
    """How a command on a collection begins (BSON, a string field; bsonspec.org)."""
    value = collection.encode() + b"\0"
    return b"\x02" + name.encode() + b"\0" + len(value).to_bytes(4, "little") + value


class Wire:
    """Forwards connections to mongod. `cut_at` a command it still brings that one, or not even that, and
    from then on nothing, in either direction, as a network that drops every packet."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._connections: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._command: bytes | None = None
        self._bring = True
        self._loses = False
        self._next: list[bytes] = []
        self._lost: set[socket.socket] = set()
        self._breaks = False
        self._broken: set[socket.socket] = set()
        self._held: threading.Event | None = None
        self.is_holding = threading.Event()
        self.is_cut = threading.Event()
        self._start(self._accept)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def hold_at(self, command: bytes) -> None:
        """Keep the command until `let_go`: it is on its way meanwhile."""
        self._held = threading.Event()
        self._command = command

    def let_go(self) -> None:
        assert self._held is not None
        self._held.set()
        self._held = None
        self.is_holding.clear()

    def hold_again_at(self, command: bytes) -> None:
        """Let go of the one that is held, and hold the next."""
        assert self._held is not None
        before = self._held
        self.is_holding.clear()
        self.hold_at(command)
        before.set()

    def break_at(self, command: bytes) -> None:
        """The connection that brings the command breaks when its answer comes; others work."""
        self._breaks, self._command = True, command

    def lose_answers_to(self, *commands: bytes) -> None:
        """Of each of them, one after the other. Other connections work."""
        self._loses = True
        self._command, *self._next = commands

    def cut_at(self, command: bytes, *, bring: bool) -> None:
        self._bring, self._command = bring, command

    def mend(self) -> None:
        """New connections work again; the old ones are gone."""
        self._command = None
        self.is_cut.clear()
        connections, self._connections = self._connections, []
        for connection in connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self.mend()
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
                near, _ = self._listener.accept()
                try:
                    far = socket.create_connection(("127.0.0.1", self._port))
                except OSError:
                    near.close()
                    continue
                self._connections += [near, far]
                self._start(self._forward, near, far, True)
                self._start(self._forward, far, near, False)

    def _forward(self, source: socket.socket, target: socket.socket, is_request: bool) -> None:
        with source, suppress(OSError):
            while data := source.recv(1 << 20):
                if self.is_cut.is_set():
                    continue
                if source in self._broken:
                    break
                if source in self._lost:
                    continue
                if is_request and self._command is not None and self._command in data:
                    if (held := self._held) is not None:
                        self._command = None
                        self.is_holding.set()
                        held.wait(10)
                        target.sendall(data)
                        continue
                    if self._loses:
                        self._lost.add(target)
                        self._command = self._next.pop(0) if self._next else None
                        self._loses = self._command is not None
                        target.sendall(data)
                        continue
                    if self._breaks:
                        self._command, self._breaks = None, False
                        self._broken.add(target)
                        target.sendall(data)
                        continue
                    self.is_cut.set()
                    if not self._bring:
                        continue
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)


@contextmanager
def wire(port: int) -> Iterator[Wire]:
    made = Wire(port)
    try:
        yield made
    finally:
        made.close()
