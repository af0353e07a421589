"""Moving and renaming by merge patch (RFC 5789, RFC 7396): what a document makes of a file's key."""

import json
from typing import Any

from app.storage.types import Key

MEDIA_TYPE = "application/merge-patch+json"
MAX_BYTES = 64 << 10

_NAMES = ("folder", "filename")


class PatchError(Exception):
    """The message is a sentence that may be shown to the person who asked."""


class BadPatch(PatchError):
    """Not a JSON object, or one that asks for what cannot be changed."""


class PatchTooLarge(PatchError):
    """Longer than any patch of names."""


class UnsupportedPatch(PatchError):
    """Not a merge patch."""


def patched(key: Key, document: bytes) -> Key:
    """The key that a merge patch of `folder` and `filename` makes of a key; `folder: null` is the top.

    Raises BadPatch, and InvalidName for names that no file can have.
    """
    patch = _object(document)
    unknown = [name for name in patch if name not in _NAMES]
    if unknown:
        raise BadPatch(f"Only folder and filename can be changed, not {', '.join(unknown)[:200]}.")
    names = {"folder": key.folder, "filename": key.filename} | patch
    if names["folder"] is None:
        names["folder"] = ""  # a merge patch removes a member with null
    for name in _NAMES:
        if not isinstance(names[name], str):
            raise BadPatch(f"The {name} is a string{' or null' if name == 'folder' else ''}.")
    return Key.of(key.library, names["folder"], names["filename"])


def _object(document: bytes) -> dict[str, Any]:
    try:
        patch = json.loads(document.decode(), object_pairs_hook=_members)
    except (ValueError, RecursionError):
        raise BadPatch("The body is not JSON in UTF-8.") from None
    if not isinstance(patch, dict):
        raise BadPatch("A patch is a JSON object with folder, filename or both.")
    return patch


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise BadPatch("A member of the patch is there twice.")  # readers would disagree on which counts
    return members
