"""A way to PostgreSQL on which answers get lost."""

import contextlib
import select
import socket
import threading
from enum import Enum


class Loss(Enum):
    COMMIT = "the COMMIT"
    """It does not arrive."""
    ANSWER = "its answer"
    """It arrives, and its answer does not."""


class LosingProxy:
    """Passes on what is said to a server and what that answers, until a COMMIT is to be lost.

    `reachable` says whether anybody gets through after that.
    """

    def __init__(self, port: int) -> None:
        self._server = "127.0.0.1", port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.loses: Loss | None = None
        self.reachable = True
        self.lost = threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if self.reachable or not self.lost.is_set():
                    threading.Thread(target=self._pass_on, args=(client,), daemon=True).start()
                else:
                    client.close()

    def _pass_on(self, client: socket.socket) -> None:
        with client, socket.create_connection(self._server) as server, contextlib.suppress(OSError):
            while True:
                for ready in select.select([client, server], [], [])[0]:
                    data = ready.recv(1 << 16)
                    if not data:
                        return
                    if ready is client and self._is_lost(data):
                        if self.loses is Loss.ANSWER:
                            server.sendall(data)
                            server.recv(1 << 16)
                        return
                    (server if ready is client else client).sendall(data)

    def _is_lost(self, data: bytes) -> bool:
        if self.loses is None or self.lost.is_set() or b"COMMIT" not in data.replace(b"READ COMMITTED", b""):
            return False
        self.lost.set()
        return True
