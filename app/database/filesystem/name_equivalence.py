"""Equivalent names: names in another case or Unicode normalization that a file system identifies.

APFS, HFS+, NTFS, SMB shares and some folders of ext4, F2FS and ZFS open `film.mp4` under the name `FILM.mp4`.
A client's path is valid only with the names that the folders contain, or one file would have many paths.
Normalization makes no difference: our paths are in NFC, while names written by a Mac may be in NFD.
"""

import errno
import os
import string
import unicodedata
from collections.abc import Iterable

from app.database.filesystem.posix import NOT_FOUND, DiskPath, Root, open_folder
from app.storage.errors import PathConflict
from app.storage.types import quoted

_UPPER_ASCII = str.maketrans(string.ascii_lowercase, string.ascii_uppercase)
_LOWER_ASCII = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)


class EquivalentNameExists(PathConflict):
    """A path that the file system identifies with another, existing one."""

    def __init__(self, path: DiskPath, actual: DiskPath) -> None:
        pairs = zip(path, actual, strict=True)
        wanted, found = next(pair for pair in pairs if not is_equivalent(pair[1:], pair[:1]))
        super().__init__(
            f"{quoted(wanted)} exists as {quoted(found)}, and this file system treats both as the same name. "
            "Use that spelling, or choose another name."
        )


def equivalent_names(name: str) -> tuple[str, ...]:
    """Return other names, of which a file system that ignores case or normalization opens at least one."""
    # Some file systems fold only the letters of ASCII.
    upper, lower = name.translate(_UPPER_ASCII), name.translate(_LOWER_ASCII)
    names = name.swapcase(), upper, lower, _nfc(name), _nfd(name)
    return tuple(other for other in dict.fromkeys(names) if other != name)


def is_equivalent(actual: DiskPath, path: DiskPath) -> bool:
    """Return whether two paths are equal after normalization."""
    return actual == path or _nfc("/".join(actual)) == _nfc("/".join(path))


def check_exact_name(path: DiskPath, actual: DiskPath) -> DiskPath:
    """Return the path of a new file, with the names that the folders contain. Raises EquivalentNameExists."""
    if not is_equivalent(actual, path):
        raise EquivalentNameExists(path, actual)
    return actual


def equivalent_entries(name: str, entries: Iterable[str]) -> list[str]:
    """Return the entries that equal the name after normalization, the identical one first."""
    nfc = _nfc(name)
    found = [entry for entry in entries if not (entry.isascii() and entry != nfc) and _nfc(entry) == nfc]
    return sorted(found, key=lambda entry: entry != name)


def actual_path(root: Root, path: DiskPath) -> DiskPath:
    """Return the path with the names that the folders contain, and the rest, if any, unchanged.

    Of several paths that equal this one after normalization, it is one that exists to the greatest depth.
    Raises OSError.
    """
    found: list[DiskPath] = [()]
    for depth, name in enumerate(path):
        deeper = [(*folder, entry) for folder in found for entry in _entries(root, folder, name)]
        if not deeper:
            return (*found[0], *path[depth:])
        found = deeper
    return found[0]


def _entries(root: Root, path: DiskPath, name: str) -> list[str]:
    """Return the entries of a folder that are opened under a name."""
    try:
        with open_folder(root, path) as folder:
            if exists(folder, name):
                if not any(exists(folder, other) for other in equivalent_names(name)):
                    return [name]
                entries = os.listdir(folder)
                return equivalent_entries(name, entries) or [_entry_opened_as(folder, name, entries)]
            # The file system distinguishes normalizations: there may be an entry in another one.
            return [] if name.isascii() else equivalent_entries(name, os.listdir(folder))
    except OSError as error:
        if error.errno in NOT_FOUND:
            return []
        raise


def exists(folder: int, name: str) -> bool:
    """Return whether the name can be opened in a folder. Returns False for one that is too long: the
    equivalent of a legal name may be."""
    try:
        os.lstat(name, dir_fd=folder)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENAMETOOLONG):
            return False
        raise
    return True


def _entry_opened_as(folder: int, name: str, entries: Iterable[str]) -> str:
    """Return the entry that the file system opens under a name that is no entry."""
    found = os.lstat(name, dir_fd=folder)
    folded = _nfc(name).casefold()
    for entry in sorted(entries, key=lambda entry: _nfc(entry).casefold() != folded):
        if os.path.samestat(os.lstat(entry, dir_fd=folder), found):
            return entry
    raise FileNotFoundError(name)  # it was removed meanwhile


def _nfc(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _nfd(name: str) -> str:
    return unicodedata.normalize("NFD", name)
