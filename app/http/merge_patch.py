"""JSON Merge Patch (RFC 7396), for PATCH requests (RFC 5789)."""

import json
from typing import Any

from app.http.errors import BadPatch

MEDIA_TYPE = "application/merge-patch+json"


def parse_merge_patch(document: bytes) -> dict[str, Any]:
    """Return the members of a merge patch that is a JSON object in UTF-8. Raises BadPatch."""
    try:
        patch = json.loads(document.decode(), object_pairs_hook=_unique_members)
    except (ValueError, RecursionError):
        raise BadPatch("The body is not JSON in UTF-8.") from None
    if not isinstance(patch, dict):
        raise BadPatch("A patch is a JSON object with folder, filename or both.")
    return patch


def _unique_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        # Two JSON parsers would disagree on which one counts (RFC 8259 §4).
        raise BadPatch("A member of the patch is there twice.")
    return members
