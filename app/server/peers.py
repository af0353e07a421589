"""The addresses that a connection over a Unix socket stands for."""

import asyncio
import socket

CLIENT = ("127.0.0.1", 0)
"""The peer: a program of this machine, as a peer on loopback is, and believed where that one is."""

SERVER = ("localhost", 80)
"""Our end, for a request without Host; a path is no authority of a URL."""


def is_unix(transport: asyncio.BaseTransport) -> bool:
    """Return whether the connection came in over a Unix socket."""
    connected = transport.get_extra_info("socket")
    return connected is not None and connected.family == socket.AF_UNIX
