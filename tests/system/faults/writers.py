"""Processes that change one library as fast as they can, and print how many changes each made, as JSON.

Arguments: the folder, the number of processes, and seconds. Exits with status 1 if a process failed with an
error other than NotFound or AlreadyExists.
"""

import json
import os
import random
import sys
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from victim import Library

from app.storage.errors import AlreadyExists, NotFound
from app.storage.types import SHARED, Expect, Key

KINDS = ("create", "replace", "delete", "move", "replace shared", "delete shared")


def write(root: Path, number: int, seconds: float) -> Counter[str]:
    """Change own and shared files until the time is up. Return the number of changes by kind."""
    rng = random.Random(number)
    counts: Counter[str] = Counter()
    with ExitStack() as stack:
        library = Library(root, stack)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            path = f"{number}/{rng.randrange(4)}"
            kind = rng.choice(KINDS)
            try:
                change(library, kind, path, rng)
                counts[kind] += 1
            except (NotFound, AlreadyExists):
                counts["refused"] += 1
    return counts


def change(library: Library, kind: str, path: str, rng: random.Random) -> None:
    shared = f"shared/{rng.randrange(4)}"
    data = rng.randbytes(rng.choice((0, 10, 20_000)))
    match kind:
        case "create":
            library.put(path, data, Expect.ABSENT)
        case "replace":
            library.put(path, data)
        case "delete":
            library.backend.delete(Key.at(SHARED, path), Expect.ANY)
        case "move":
            library.backend.move(Key.at(SHARED, path), Key.at(SHARED, shared), Expect.ANY)
        case "replace shared":
            library.put(shared, data)
        case "delete shared":
            library.backend.delete(Key.at(SHARED, shared), Expect.ANY)


def main() -> None:
    root, writers, seconds = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    pipes = []
    for number in range(writers):
        ours, theirs = os.pipe()
        if os.fork() == 0:
            os.write(theirs, json.dumps(write(root, number, seconds)).encode())
            sys.exit()
        os.close(theirs)
        pipes.append(ours)
    counts = [os.read(pipe, 4096) for pipe in pipes]
    if not all(counts):
        sys.exit(1)  # the traceback is on standard error
    print(f"[{b','.join(counts).decode()}]")


if __name__ == "__main__":
    main()
