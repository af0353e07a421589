"""Where the files of a deleted account go that shall be kept."""

from collections.abc import Iterator
from itertools import count

from app.accounts.models import Destination
from app.storage.contract import Storage
from app.storage.errors import InvalidName, NotFound
from app.storage.types import MAX_SEGMENT_BYTES, Key, Listing
from app.storage.upkeep import Usage

IN_PLACE = Destination(library="", folder="")
"""Of the account whose library is the shared one: its files are ordinary files in the folder already."""

MAX_NUMBERED = 9
"""Names that are tried for a file in its own folder, before it goes to the top of the destination."""

MAX_FLAT = 1_000

MAX_EXTENSION_BYTES = 32
"""What follows the last full stop of a longer name is a part of a sentence."""


async def usage_before_deletion(storage: Storage, library: str) -> Usage:
    """Return what would be deleted with the library, also what was put there by hand just now."""
    await storage.page(Listing(library, recursive=True), cursor=None, limit=1)
    return await storage.usage(library)


async def free_destination(storage: Storage, library: str, email: str) -> Destination:
    """Return a folder of the library that is named for the account and is not there yet."""
    # Names with a full stop at their beginning are hidden on many systems, and some of them in lists here.
    wanted = email.lstrip(".").replace("/", "-").replace("\\", "-")
    for number in count(1):
        folder = numbered(wanted, number, is_file=False)
        if not await _is_taken(storage, library, folder):
            return Destination(library, folder)
    raise AssertionError("There are more numbers than folders.")


async def _is_taken(storage: Storage, library: str, folder: str) -> bool:
    for ignored in (False, True):
        beneath = Listing(library, folder=folder, recursive=True, ignored=ignored)
        if (await storage.page(beneath, cursor=None, limit=1)).items:
            return True
    try:
        await storage.stat(Key.of(library, "", folder))
    except NotFound:
        return False
    return True


def candidates(destination: Destination, key: Key) -> Iterator[Key]:
    """Return the names to try for a file, the best first: where it was, below the folder of the destination;
    with a number where that is taken; and at the top of that folder, where its own folders cannot be made."""
    folder = f"{destination.folder}/{key.folder}" if key.folder else destination.folder
    for place, most in ((folder, MAX_NUMBERED), (destination.folder, MAX_FLAT)):
        for number in range(1, most + 1):
            try:
                yield Key.of(destination.library, place, numbered(key.filename, number))
            except InvalidName:  # too deep, or too long
                break


def numbered(name: str, number: int, *, is_file: bool = True) -> str:
    """Return the name with a number before its extension, unless the number is 1; short enough for a name."""
    stem, dot, extension = name.rpartition(".")
    if not is_file or not stem.strip(".") or len(extension.encode()) > MAX_EXTENSION_BYTES:
        stem, dot, extension = name, "", ""
    end = (f" ({number})" if number > 1 else "") + dot + extension
    room = MAX_SEGMENT_BYTES - len(end.encode())
    return stem.encode()[: max(0, room)].decode(errors="ignore") + end
