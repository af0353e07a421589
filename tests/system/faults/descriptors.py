"""The open file descriptors of a server."""

import contextlib
import os
from collections import Counter
from pathlib import Path

from tests.support import Server


def descriptors(server: Server) -> Counter[str]:
    """Count the open descriptors by kind, without those of the database, whose connections stay in a pool."""
    kinds: Counter[str] = Counter()
    folder = f"/proc/{server.process.pid}/fd"
    targets = []
    for descriptor in os.listdir(folder):
        with contextlib.suppress(FileNotFoundError):
            targets.append(os.readlink(f"{folder}/{descriptor}"))
    outgoing = {f"socket:[{inode}]" for inode in outgoing_connections(server)}
    for target in targets:
        if "seekable.db" not in target and target not in outgoing:
            kinds[target.partition(":")[0]] += 1
    return kinds


def outgoing_connections(server: Server) -> set[str]:
    """Return the inodes of TCP connections that the server opened, as to its database (proc(5))."""
    inodes = set()
    for line in Path(f"/proc/{server.process.pid}/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, _, _, _, _, _, _, inode, *_ = line.split()
        if int(local.partition(":")[2], 16) != server.port and int(remote.partition(":")[2], 16) != 0:
            inodes.add(inode)
    return inodes
