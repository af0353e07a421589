"""Many processes that write to one library at once. Over the filesystem backend."""

import hashlib
import multiprocessing
import os
import random
import sqlite3
import time
from collections import Counter
from contextlib import ExitStack, closing
from pathlib import Path

from app.storage.errors import AlreadyExists, NotFound
from app.storage.types import SHARED, Expect, Key
from tests.faults.victim import Library

WRITERS = 8
SECONDS = 3


def write(root: Path, number: int) -> Counter[str]:
    """Change names of its own, and names that all have, as fast as it can. How often each change was made."""
    dice = random.Random(number)
    made: Counter[str] = Counter()
    with ExitStack() as stack:
        library = Library(root, stack)
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            mine = f"{number}/{dice.randrange(4)}"
            kind = dice.choice(("create", "replace", "delete", "move", "shared", "delete shared"))
            try:
                change(library, kind, mine, dice)
                made[kind] += 1
            except (NotFound, AlreadyExists):
                made["refused"] += 1
    return made


def change(library: Library, kind: str, path: str, dice: random.Random) -> None:
    """Any other error than those of names that are gone, or taken, ends the test."""
    shared = f"shared/{dice.randrange(4)}"
    data = dice.randbytes(dice.choice((0, 10, 20_000)))
    match kind:
        case "create":
            library.put(path, data, Expect.ABSENT)
        case "replace":
            library.put(path, data)
        case "delete":
            library.backend.delete(Key.at(SHARED, path), Expect.ANY)
        case "move":
            library.backend.move(Key.at(SHARED, path), Key.at(SHARED, shared), Expect.ANY)
        case "shared":
            library.put(shared, data)
        case "delete shared":
            library.backend.delete(Key.at(SHARED, shared), Expect.ANY)


def test_processes_that_write_at_once_do_not_refuse_one_another(tmp_path: Path) -> None:
    root = tmp_path / "files"
    with multiprocessing.get_context("spawn").Pool(WRITERS) as pool:
        made = pool.starmap(write, [(root, number) for number in range(WRITERS)], chunksize=1)
    for kind in ("create", "replace", "delete", "move", "shared", "delete shared"):
        assert all(writer[kind] for writer in made), made
    with ExitStack() as stack:
        assert Library(root, stack).staging() == []
    with closing(sqlite3.connect(root / ".seekable" / "seekable.db")) as database:
        rows = database.execute("SELECT folder, filename, size, sha256 FROM media").fetchall()
    stored = {
        str(path.relative_to(root)): path.read_bytes() for path in root.glob("[!.]*/**/*") if path.is_file()
    }
    assert {f"{folder}/{name}": (size, sha256) for folder, name, size, sha256 in rows} == {
        path: (len(data), hashlib.sha256(data).hexdigest()) for path, data in stored.items()
    }
    assert set(os.listdir(root)) == {".seekable", *(path.partition("/")[0] for path in stored)}
