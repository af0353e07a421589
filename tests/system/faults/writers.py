"""Processes that all change one library as fast as they can, and say in JSON which changes each of them made.

Run with the folder, how many processes, and for how many seconds. Ends with status 1 when one of them met
another error than those of a name that is gone, or taken.
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
    """Change names of its own, and names that all have, as fast as it can. How often each change was made."""
    dice = random.Random(number)
    made: Counter[str] = Counter()
    with ExitStack() as stack:
        library = Library(root, stack)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            mine = f"{number}/{dice.randrange(4)}"
            kind = dice.choice(KINDS)
            try:
                change(library, kind, mine, dice)
                made[kind] += 1
            except (NotFound, AlreadyExists):
                made["refused"] += 1
    return made


def change(library: Library, kind: str, path: str, dice: random.Random) -> None:
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
    made = [os.read(pipe, 4096) for pipe in pipes]
    if not all(made):
        sys.exit(1)  # what went wrong is on the standard error
    print(f"[{b','.join(made).decode()}]")


if __name__ == "__main__":
    main()
