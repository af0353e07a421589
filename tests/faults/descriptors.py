"""What a server holds open."""

import contextlib
import os
from collections import Counter

from tests.support import Server


def descriptors(server: Server) -> Counter[str]:
    """What the server has open, by kind. Not the database: its connections stay in a pool."""
    kinds: Counter[str] = Counter()
    folder = f"/proc/{server.process.pid}/fd"
    for descriptor in os.listdir(folder):
        with contextlib.suppress(FileNotFoundError):
            target = os.readlink(f"{folder}/{descriptor}")
            if "seekable.db" not in target:
                kinds[target.partition(":")[0]] += 1
    return kinds
