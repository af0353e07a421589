"""What a server holds open."""

import contextlib
import os
from collections import Counter
from pathlib import Path

from tests.support import Server


def descriptors(server: Server) -> Counter[str]:
    """What the server has open, by kind. Not the database: its connections stay in a pool."""
    kinds: Counter[str] = Counter()
    folder = f"/proc/{server.process.pid}/fd"
    targets = []
    for descriptor in os.listdir(folder):
        with contextlib.suppress(FileNotFoundError):
            targets.append(os.readlink(f"{folder}/{descriptor}"))
    outgoing = {f"socket:[{inode}]" for inode in connections_to_others(server)}
    for target in targets:
        if "seekable.db" not in target and target not in outgoing:
            kinds[target.partition(":")[0]] += 1
    return kinds


def connections_to_others(server: Server) -> set[str]:
    """The inodes of TCP connections that it opened, as a database has them: proc(5), /proc/net/tcp."""
    found = set()
    for line in Path(f"/proc/{server.process.pid}/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, _, _, _, _, _, _, inode, *_ = line.split()
        if int(local.partition(":")[2], 16) != server.port and int(remote.partition(":")[2], 16) != 0:
            found.add(inode)
    return found
