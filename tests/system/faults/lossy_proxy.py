"""A proxy to PostgreSQL that loses a COMMIT or its reply."""

import contextlib
import select
import socket
import threading
from enum import Enum


class Loss(Enum):
    COMMIT = "the COMMIT"
    """The COMMIT does not reach the server."""
    REPLY = "its reply"
    """The COMMIT reaches the server, and its reply is lost."""


class LossyProxy:
    """A proxy that forwards connections. Once `loss` is set, it loses the next COMMIT, and its connection.

    `reachable` decides whether it accepts further connections after that.
    """

    def __init__(self, port: int) -> None:
        self._server = "127.0.0.1", port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.loss: Loss | None = None
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
                    threading.Thread(target=self._forward, args=(client,), daemon=True).start()
                else:
                    client.close()

    def _forward(self, client: socket.socket) -> None:
        with client, socket.create_connection(self._server) as server, contextlib.suppress(OSError):
            while True:
                for ready in select.select([client, server], [], [])[0]:
                    data = ready.recv(1 << 16)
                    if not data:
                        return
                    if ready is client and self._is_lost(data):
                        if self.loss is Loss.REPLY:
                            server.sendall(data)
                            server.recv(1 << 16)
                        return
                    (server if ready is client else client).sendall(data)

    def _is_lost(self, data: bytes) -> bool:
        if self.loss is None or self.lost.is_set() or b"COMMIT" not in data.replace(b"READ COMMITTED", b""):
            return False
        self.lost.set()
        return True
