"""The media types of files that were stored before a name of media won over a declared type that is none.

A part of migrations: it stays as it is, whatever becomes of library/mediatypes.py.
"""

_MATROSKA = {"": "video/x-matroska", "mka": "audio/x-matroska"}

RETYPED: dict[str, dict[str, str]] = {
    "application/matroska": _MATROSKA,
    "application/x-matroska": _MATROSKA,
    "audio/matroska": {"": "audio/x-matroska"},
    "video/matroska": {"": "video/x-matroska"},
    "video/matroska-3d": {"": "video/x-matroska"},
    "video/mkv": {"": "video/x-matroska"},
    "video/x-mkv": {"": "video/x-matroska"},
    "application/mp4": {"mp4": "video/mp4", "m4v": "video/mp4", "m4a": "audio/mp4", "m4b": "audio/mp4"},
    "application/ogg": {
        **dict.fromkeys(("ogg", "oga", "opus", "spx"), "audio/ogg"),
        **dict.fromkeys(("ogv", "ogm"), "video/ogg"),
    },
    "text/vnd.trolltech.linguist": {"ts": "video/mp2t"},
    "text/vnd.qt.linguist": {"ts": "video/mp2t"},
}
"""By the type that was stored, the types by extension; "" is any extension."""


def retyped(content_type: str, filename: str) -> str:
    """Return the type that a file of an older version has from now on."""
    types = RETYPED.get(content_type, {})
    _, dot, extension = filename.rpartition(".")
    return types.get(extension.lower() if dot else "", types.get("", content_type))
