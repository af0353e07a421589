"""Names that a file system takes for one another: in another case, or in another Unicode normalisation.

APFS, HFS+, NTFS, SMB shares and some folders of ext4, F2FS and ZFS find `film.mp4` when they are asked for
`FILM.mp4`. A path that a client sends counts only as the entries of the folders spell it, or one file would
have many paths. Normalisation is no such difference: paths are in NFC, and a Mac's names are not.
"""

import errno
import os
import string
import unicodedata
from collections.abc import Iterable

from app.database.filesystem.posix import NOT_THERE, DiskPath, Root, entered
from app.storage.errors import PathConflict

_UPPER_ASCII = str.maketrans(string.ascii_lowercase, string.ascii_uppercase)
_LOWER_ASCII = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)


class EquivalentNameExists(PathConflict):
    """A path that a file system takes for another one, which is there."""

    def __init__(self, path: DiskPath, actual: DiskPath) -> None:
        pairs = zip(path, actual, strict=True)
        wanted, found = next(pair for pair in pairs if not is_equivalent(pair[1:], pair[:1]))
        super().__init__(
            f"“{wanted}” is already there as “{found}”, and this file system takes both for the same name. "
            "Use that spelling, or choose another name."
        )


def equivalent_names(name: str) -> tuple[str, ...]:
    """Return spellings of which a file system that ignores case or normalisation finds at least one where it
    has the name itself."""
    # Some file systems fold the letters of ASCII alone.
    ways = name.swapcase(), name.translate(_UPPER_ASCII), name.translate(_LOWER_ASCII), _nfc(name), _nfd(name)
    return tuple(way for way in dict.fromkeys(ways) if way != name)


def is_equivalent(actual: DiskPath, path: DiskPath) -> bool:
    """Return whether two paths differ in normalisation at most."""
    return actual == path or _nfc("/".join(actual)) == _nfc("/".join(path))


def check_exact_name(path: DiskPath, actual: DiskPath) -> DiskPath:
    """Return the path of a new file, in the spelling of its folders. Raises EquivalentNameExists."""
    if not is_equivalent(actual, path):
        raise EquivalentNameExists(path, actual)
    return actual


def equivalent_entries(name: str, names: Iterable[str]) -> list[str]:
    """Return the names that are this one but for normalisation, itself first."""
    wanted = _nfc(name)
    found = [one for one in names if not (one.isascii() and one != wanted) and _nfc(one) == wanted]
    return sorted(found, key=lambda one: one != name)


def actual_path(root: Root, path: DiskPath) -> DiskPath:
    """Return the path as the entries of the folders spell it, as far as it leads anywhere; the rest as it is.

    Where several paths are this one but for normalisation, it is one that leads furthest. Raises OSError.
    """
    places: list[DiskPath] = [()]
    for depth, name in enumerate(path):
        further = [(*place, one) for place in places for one in _entries(root, place, name)]
        if not further:
            return (*places[0], *path[depth:])
        places = further
    return places[0]


def _entries(root: Root, place: DiskPath, name: str) -> list[str]:
    """Return the entries that a name in a folder leads to."""
    try:
        with entered(root, place) as folder:
            if exists(folder, name):
                if not any(exists(folder, other) for other in equivalent_names(name)):
                    return [name]
                names = os.listdir(folder)
                return equivalent_entries(name, names) or [_entry(folder, name, names)]
            # A Mac's name is another one here.
            return [] if name.isascii() else equivalent_entries(name, os.listdir(folder))
    except OSError as error:
        if error.errno in NOT_THERE:
            return []
        raise


def exists(folder: int, name: str) -> bool:
    """Return whether the name leads to anything in an open folder. One that is too long does not: in another
    spelling a legal name may be."""
    try:
        os.lstat(name, dir_fd=folder)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENAMETOOLONG):
            return False
        raise
    return True


def _entry(folder: int, name: str, names: Iterable[str]) -> str:
    """Return the entry that the file system finds under a name that no entry has."""
    found = os.lstat(name, dir_fd=folder)
    folded = _nfc(name).casefold()
    for one in sorted(names, key=lambda one: _nfc(one).casefold() != folded):
        if os.path.samestat(os.lstat(one, dir_fd=folder), found):
            return one
    raise FileNotFoundError(name)  # it went away meanwhile


def _nfc(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _nfd(name: str) -> str:
    return unicodedata.normalize("NFD", name)
