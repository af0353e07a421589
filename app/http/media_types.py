"""The media type of a file, from its declared Content-Type and its extension (RFC 9110 §8.3). Pure."""

import re

UNKNOWN = "application/octet-stream"
MAX_LENGTH = 255

_UNINFORMATIVE = frozenset(
    {
        UNKNOWN,
        "application/binary",
        "application/octet",
        "application/octetstream",
        "application/unknown",
        "application/x-binary",
        "application/x-octet-stream",
        "application/x-octetstream",
        "application/x-unknown",
        "binary/octet-stream",
        "unknown/unknown",
        # Types that ask a browser to save the file.
        "application/download",
        "application/force-download",
        "application/force_download",
        "application/save",
        "application/save-as",
        "application/x-download",
        "application/x-force-download",
        "application/x-save",
        # curl sends the type of a form with `--data-binary`: it describes the request, not the file.
        "application/x-www-form-urlencoded",
    }
)
"""Types that carry no information: treated as application/octet-stream."""

_CANONICAL = {
    # The registered names (RFC 9559 §12.3) are too new for browsers and VLC.
    "application/matroska": "video/x-matroska",
    "application/x-matroska": "video/x-matroska",
    "audio/matroska": "audio/x-matroska",
    "audio/mka": "audio/x-matroska",
    "audio/x-mka": "audio/x-matroska",
    "video/matroska": "video/x-matroska",
    "video/matroska-3d": "video/x-matroska",
    "video/mkv": "video/x-matroska",
    "video/x-matroska-3d": "video/x-matroska",
    "video/x-mkv": "video/x-matroska",
}
"""Aliases, and the canonical name that is stored, served and searched for."""

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_QUOTED = r'"[^"\\]*(?:\\.[^"\\]*)*"'
# Unambiguous, so that a mismatch takes linear time: the spaces after a semicolon belong to the parameter,
# or if it is empty to the next semicolon.
_MEDIA_TYPE = re.compile(rf"({_TOKEN}/{_TOKEN})(?: *;(?: *{_TOKEN}=(?:{_TOKEN}|{_QUOTED}))?)*")

# The types that browsers and VLC understand, where those differ from the registered ones. Python's own
# table lacks most of them and varies with the machine.
_BY_EXTENSION = {
    # video
    "3g2": "video/3gpp2",
    "3gp": "video/3gpp",
    "3gpp": "video/3gpp",
    "asf": "video/x-ms-asf",
    "avi": "video/x-msvideo",
    "divx": "video/x-msvideo",
    "dv": "video/x-dv",
    "f4v": "video/mp4",
    "flv": "video/x-flv",
    "m2t": "video/mp2t",
    "m2ts": "video/mp2t",
    "m2v": "video/mpeg",
    "m4s": "video/iso.segment",
    "m4v": "video/mp4",  # browsers do not play video/x-m4v
    "mk3d": "video/x-matroska",
    "mkv": "video/x-matroska",
    "mov": "video/quicktime",
    "mp4": "video/mp4",
    "mpe": "video/mpeg",
    "mpeg": "video/mpeg",
    "mpg": "video/mpeg",
    "mts": "video/mp2t",
    "mxf": "application/mxf",
    "ogm": "video/ogg",
    "ogv": "video/ogg",
    "qt": "video/quicktime",
    "rm": "application/vnd.rn-realmedia",
    "rmvb": "application/vnd.rn-realmedia-vbr",
    "ts": "video/mp2t",
    "vob": "video/mpeg",
    "webm": "video/webm",
    "wmv": "video/x-ms-wmv",
    # audio
    "aac": "audio/aac",
    "ac3": "audio/ac3",
    "adts": "audio/aac",
    "aif": "audio/aiff",
    "aifc": "audio/aiff",
    "aiff": "audio/aiff",
    "amr": "audio/amr",
    "ape": "audio/x-ape",
    "au": "audio/basic",
    "caf": "audio/x-caf",
    "dsf": "audio/x-dsf",
    "dts": "audio/vnd.dts",
    "eac3": "audio/eac3",
    "flac": "audio/flac",
    "m4a": "audio/mp4",
    "m4b": "audio/mp4",
    "m4r": "audio/mp4",
    "mid": "audio/midi",
    "midi": "audio/midi",
    "mka": "audio/x-matroska",
    "mp2": "audio/mpeg",
    "mp3": "audio/mpeg",
    "mpc": "audio/x-musepack",
    "mpga": "audio/mpeg",
    "oga": "audio/ogg",
    "ogg": "audio/ogg",
    "opus": "audio/ogg",  # audio/opus is the RTP payload
    "spx": "audio/ogg",
    "tta": "audio/x-tta",
    "wav": "audio/wav",
    "weba": "audio/webm",
    "wma": "audio/x-ms-wma",
    "wv": "audio/x-wavpack",
    # images
    "apng": "image/apng",
    "avif": "image/avif",
    "bmp": "image/bmp",
    "dng": "image/x-adobe-dng",
    "gif": "image/gif",
    "heic": "image/heic",
    "heif": "image/heif",
    "ico": "image/x-icon",
    "jfif": "image/jpeg",
    "jpe": "image/jpeg",
    "jpeg": "image/jpeg",
    "jpg": "image/jpeg",
    "jxl": "image/jxl",
    "png": "image/png",
    "psd": "image/vnd.adobe.photoshop",
    "svg": "image/svg+xml",
    "svgz": "application/gzip",  # as image/svg+xml it would need a Content-Encoding
    "tif": "image/tiff",
    "tiff": "image/tiff",
    "webp": "image/webp",
    # subtitles
    "ass": "text/x-ssa",
    "dfxp": "application/ttml+xml",
    "sami": "application/x-sami",
    "smi": "application/x-sami",
    "srt": "application/x-subrip",
    "ssa": "text/x-ssa",
    "sub": "text/x-microdvd",
    "ttml": "application/ttml+xml",
    "vtt": "text/vtt",
    # playlists
    "asx": "video/x-ms-asf",
    "cue": "application/x-cue",
    "m3u": "audio/x-mpegurl",
    # VLC plays application/vnd.apple.mpegurl as HLS whatever the content. With this type it looks at the
    # content, and Safari plays it as HLS, too.
    "m3u8": "audio/x-mpegurl",
    "mpd": "application/dash+xml",
    "pls": "audio/x-scpls",
    "wpl": "application/vnd.ms-wpl",
    "xspf": "application/xspf+xml",
    # texts
    "css": "text/css",
    "csv": "text/csv",
    "htm": "text/html",
    "html": "text/html",
    "js": "text/javascript",
    "json": "application/json",
    "log": "text/plain",
    "lrc": "text/plain",
    "markdown": "text/markdown",
    "md": "text/markdown",
    "mjs": "text/javascript",
    "nfo": "text/plain",
    "rtf": "application/rtf",
    "text": "text/plain",
    "txt": "text/plain",
    "xhtml": "application/xhtml+xml",
    "xml": "application/xml",
    "yaml": "application/yaml",
    "yml": "application/yaml",
    # documents
    "azw3": "application/vnd.amazon.mobi8-ebook",
    "cbr": "application/vnd.comicbook-rar",
    "cbz": "application/vnd.comicbook+zip",
    "doc": "application/msword",
    "docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    "epub": "application/epub+zip",
    "mobi": "application/x-mobipocket-ebook",
    "odp": "application/vnd.oasis.opendocument.presentation",
    "ods": "application/vnd.oasis.opendocument.spreadsheet",
    "odt": "application/vnd.oasis.opendocument.text",
    "pdf": "application/pdf",
    "ppt": "application/vnd.ms-powerpoint",
    "pptx": "application/vnd.openxmlformats-officedocument.presentationml.presentation",
    "xls": "application/vnd.ms-excel",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    # archives
    "7z": "application/x-7z-compressed",
    "bz2": "application/x-bzip2",
    "gz": "application/gzip",
    "iso": "application/x-iso9660-image",
    "rar": "application/vnd.rar",
    "tar": "application/x-tar",
    "tgz": "application/gzip",
    "torrent": "application/x-bittorrent",
    "xz": "application/x-xz",
    "zip": "application/zip",
    "zst": "application/zstd",
}


_LISTS_AND_DOCUMENTS = frozenset({"asx", "m3u", "m3u8", "pls", "svg"})
"""Extensions with an audio, video or image type whose files are playlists, or may contain a script."""

_MEDIA = ("audio/", "video/", "image/", "application/mxf", "application/vnd.rn-realmedia")
"""Prefixes of the media types that count as media."""

_MEDIA_EXTENSIONS = frozenset(
    extension
    for extension, kind in _BY_EXTENSION.items()
    if kind.startswith(_MEDIA) and extension not in _LISTS_AND_DOCUMENTS
)

_SOURCE_EXTENSIONS = frozenset({"ts", "mts"})
"""Extensions of MPEG transport streams that TypeScript uses as well."""

_SOURCE = re.compile(r"text/.+|application/(?:x-)?(?:typescript|javascript|ecmascript)")
"""Types of source code and other text."""

_LINGUIST = frozenset({"text/vnd.trolltech.linguist", "text/vnd.qt.linguist"})
"""Types that the MIME tables of many systems have for `.ts`, whatever the content."""


def media_type(declared: str | None, filename: str) -> str:
    """Return the Content-Type to store and serve: the declared one (RFC 9110 §8.3.1), else by extension.

    The extension of a media file takes precedence over a declared type that is not one of media. The result
    is a legal header value of printable ASCII, at most 255 characters long.
    """
    kind, parameters = _split(declared or "")
    extension = _extension(filename)
    if not kind or _hides_media(kind, extension):
        return _BY_EXTENSION.get(extension, UNKNOWN)
    kind = canonical(kind)
    return kind + parameters if len(kind + parameters) <= MAX_LENGTH else kind


def canonical(kind: str) -> str:
    """Return the canonical name of a media type without parameters, in lower case."""
    return _CANONICAL.get(kind.lower(), kind.lower())


def _split(declared: str) -> tuple[str, str]:
    """Return the type in lower case and its parameters; both empty if malformed or uninformative."""
    declared = declared.strip(" \t")
    if len(declared) > MAX_LENGTH or not (declared.isascii() and declared.isprintable()):
        return "", ""
    match = _MEDIA_TYPE.fullmatch(declared)
    if match is None:
        return "", ""
    kind = match[1].lower()
    # A wildcard is a media range, not a type, but Android's upload libraries send `video/*`.
    if kind in _UNINFORMATIVE or kind.startswith("multipart/") or "*" in kind:
        return "", ""
    return kind, declared[match.end(1) :]


def _hides_media(kind: str, extension: str) -> bool:
    """Return whether the declared type would keep players from recognising a media file."""
    if extension not in _MEDIA_EXTENSIONS or kind.startswith(_MEDIA):
        return False
    is_source = _SOURCE.fullmatch(kind) is not None and kind not in _LINGUIST
    return not (is_source and extension in _SOURCE_EXTENSIONS)


def _extension(filename: str) -> str:
    _, dot, extension = filename.rpartition(".")
    return extension.lower() if dot else ""


def media_type_after_rename(content_type: str, old_name: str, new_name: str) -> str:
    """Return the media type of a file that is renamed.

    A type that the old name suggested gives way to that of the new one: download programs give a film its
    name when it is complete.
    """
    suggested = media_type(None, new_name)
    if suggested != UNKNOWN and content_type == media_type(None, old_name):
        return suggested
    return content_type


_MATROSKA = {"": "video/x-matroska", "mka": "audio/x-matroska"}

OUTDATED_TYPES: dict[str, dict[str, str]] = {
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
"""Types that older versions stored although they hide films from players. Each maps extensions to the correct
type; "" is any extension."""


def correct_outdated(content_type: str, filename: str) -> str:
    """Return the correct type of a file that an older version stored."""
    by_extension = OUTDATED_TYPES.get(content_type, {})
    return by_extension.get(_extension(filename), by_extension.get("", content_type))
