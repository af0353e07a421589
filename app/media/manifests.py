"""The files that an HLS playlist (RFC 8216) or a DASH manifest (ISO/IEC 23009-1) references. Pure.

Manifests are untrusted uploads: parsing takes linear time, and XML with a DTD, which could define entities,
is refused.
"""

import posixpath
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote
from xml.parsers import expat

from app.storage.types import MAX_PATH_BYTES

MAX_PATHS = 100_000
"""Files that one presentation references: a day of segments of one second."""

MAX_PATTERNS = 200
"""Segment templates of one DASH manifest."""

MAX_DEPTH = 8
"""Nested elements of a DASH manifest that have segments; the standard has four."""

MAX_URL_LENGTH = 4096
"""Characters of one URL; no path of a library is longer."""

MAX_EXPANDED_LENGTH = 4 << 20
"""Characters of all URLs of a DASH manifest, with their base URLs: a short manifest can combine a long base,
or a long template, with many segments."""

EXTENSIONS = ("m3u8", "mpd")

_HLS_TAGS = ("#EXT-X-TARGETDURATION", "#EXT-X-STREAM-INF")
"""Each media playlist has the first (RFC 8216 §4.3.3.1), each master playlist the second (§4.3.4.2)."""

_URI = re.compile(r'[:,]URI="([^"]*)"')
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_VARIABLE = re.compile(r"\$(\w*)(?:%0\d{1,3}[diouxX])?\$")
_NUMBERS = frozenset({"Number", "Time", "SubNumber"})
_DIGITS = "[0-9]++"
"""Possessive, so that any number of them takes linear time."""

_EXTERNAL = "/"
"""A base URL that resolves every reference to an address outside the library."""


@dataclass(frozen=True)
class Presentation:
    """A film in segments."""

    paths: frozenset[str]
    """The paths of its segments."""
    patterns: Mapping[str, frozenset[re.Pattern[str]]] = field(default_factory=dict)
    """Patterns of further paths, by the shape of the paths that they match."""

    def includes(self, path: str) -> bool:
        """Return whether the file at the path is one of the segments."""
        return path in self.paths or any(
            pattern.fullmatch(path) for pattern in self.patterns.get(shape(path), ())
        )

    def __len__(self) -> int:
        return len(self.paths) + self.count_patterns()

    def count_patterns(self) -> int:
        """Return the number of patterns. Each costs as much as many paths."""
        return sum(map(len, self.patterns.values()))


def merged(presentations: Iterable[Presentation]) -> Presentation:
    """Return one presentation with all segments; its lookups cost the same as those of a single one."""
    paths: set[str] = set()
    patterns: dict[str, frozenset[re.Pattern[str]]] = {}
    for each in presentations:
        paths |= each.paths
        for its_shape, some in each.patterns.items():
            patterns[its_shape] = patterns.get(its_shape, frozenset()) | some
    return Presentation(frozenset(paths), patterns)


def shape(path: str) -> str:
    """Return the path with each number replaced by 0. A pattern matches paths of one shape only."""
    return re.sub("[0-9]+", "0", path)


def is_manifest(filename: str) -> bool:
    """Return whether the name is that of an HLS playlist or a DASH manifest."""
    return filename.rpartition(".")[2].lower() in EXTENSIONS


def parse_manifest(path: str, data: bytes) -> Presentation | None:
    """Return the presentation that a manifest at this path describes.

    Returns None if the file is not a manifest; an M3U playlist without HLS tags, such as an album, is not.
    """
    folder = path.rpartition("/")[0]
    text = data.decode("utf-8-sig", "replace")
    if text.startswith("#EXTM3U"):
        return _parse_hls(folder, text)
    return _parse_dash(folder, data)


def _parse_hls(folder: str, text: str) -> Presentation | None:
    if not any(tag in text for tag in _HLS_TAGS):
        return None
    paths: set[str] = set()
    for match in re.finditer(r"[^\r\n]+", text):
        line = match[0].strip()
        uris = _URI.findall(line) if line.startswith("#") else [line]
        paths.update(found for uri in uris if (found := _resolved(folder, uri)) is not None)
        if len(paths) >= MAX_PATHS:
            break
    return Presentation(frozenset(paths)) if paths else None


def _resolved(folder: str, reference: str) -> str | None:
    """Return the path in the library; None if the reference leads out of it."""
    if not 0 < len(reference) <= MAX_URL_LENGTH or reference.startswith("/") or _SCHEME.match(reference):
        return None
    name = unquote(re.split("[?#]", reference, maxsplit=1)[0])
    found = posixpath.normpath(posixpath.join(folder, name))
    if not name or found.startswith("..") or len(found) > MAX_PATH_BYTES:
        return None  # before normalisation, which takes quadratic time for combining characters
    return unicodedata.normalize("NFC", found)


class _Invalid(Exception):
    """The XML is not a DASH manifest, or it exceeds a limit."""


@dataclass
class _Level:
    """An open element of a manifest, and the values that its children inherit."""

    base: str
    template: Mapping[str, str]
    identity: Mapping[str, str]
    has_list: bool = False
    has_base: bool = False


_LEVELS = frozenset({"MPD", "Period", "AdaptationSet", "Representation"})
_TEMPLATES = ("media", "initialization", "index")


class _DashParser:
    """Collects the segments of a manifest in one pass (ISO/IEC 23009-1 §5.3.9: segments; §5.6: base URLs)."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self.paths: set[str] = set()
        self.patterns: dict[str, str] = {}
        self._levels: list[_Level] = []
        self._base: str | None = None
        self._left = MAX_EXPANDED_LENGTH

    def start(self, qualified: str, attributes: dict[str, str]) -> None:
        name = qualified.rpartition(":")[2]
        if not self._levels and name != "MPD":
            raise _Invalid
        if name in _LEVELS:
            if len(self._levels) == MAX_DEPTH:
                raise _Invalid
            above = self._levels[-1] if self._levels else _Level("", {}, {})
            self._levels.append(_Level(above.base, above.template, attributes, above.has_list))
            return
        level = self._levels[-1]
        if name == "BaseURL":
            self._base = ""
        elif name == "SegmentTemplate":
            given = {one: attributes[one] for one in _TEMPLATES if one in attributes}
            short = {one: text if len(text) <= MAX_URL_LENGTH else "" for one, text in given.items()}
            level.template = {**level.template, **short}
        elif name == "SegmentURL":
            level.has_list = True
            self._add(level.base, attributes.get("media", ""))
        elif name in ("Initialization", "RepresentationIndex"):
            self._add(level.base, attributes.get("sourceURL", ""))

    def characters(self, text: str) -> None:
        if self._base is not None and len(self._base) <= MAX_URL_LENGTH:
            self._base += text

    def end(self, qualified: str) -> None:
        name = qualified.rpartition(":")[2]
        if name in _LEVELS:
            level = self._levels.pop()
            if name == "Representation":
                self._add_segments(level)
        elif name == "BaseURL" and self._base is not None:
            if not self._levels[-1].has_base:  # further ones are alternative locations of the same segments
                base = _joined(self._levels[-1].base, self._base.strip())
                self._levels[-1].base = base if len(base) <= MAX_URL_LENGTH else _EXTERNAL
                self._levels[-1].has_base = True
            self._base = None

    def _add_segments(self, level: _Level) -> None:
        if not level.template and not level.has_list:
            self._add(level.base, "")  # the base URL is the only segment
        for name in _TEMPLATES:
            if template := level.template.get(name):
                self._add_template(level, template)

    def _add(self, base: str, reference: str) -> None:
        found = self._resolved(base, reference)
        if found is not None:
            self._note(found)

    def _note(self, path: str) -> None:
        if len(self.paths) < MAX_PATHS:
            self.paths.add(path)

    def _resolved(self, base: str, reference: str) -> str | None:
        """Return the path in the library; None if it leads out of it or the URLs are too long in total."""
        self._left -= len(base) + len(reference)
        return None if self._left < 0 else _resolved(self._folder, _joined(base, reference))

    def _add_template(self, level: _Level, template: str) -> None:
        self._left -= len(template)
        if self._left < 0:
            return
        # NUL marks the numbers: XML cannot contain it otherwise.
        filled = _VARIABLE.sub(lambda match: _filled(match[1], level.identity), template)
        found = self._resolved(level.base, filled)
        if found is None:
            return
        if "\0" not in found:
            self._note(found)
        elif len(self.patterns) < MAX_PATTERNS:
            pattern = _DIGITS.join(map(re.escape, re.split("\0+", found)))
            self.patterns[pattern] = shape(found.replace("\0", "0"))


def _filled(variable: str, identity: Mapping[str, str]) -> str:
    if variable in _NUMBERS:
        return "\0"
    known = {"": "$", "RepresentationID": identity.get("id"), "Bandwidth": identity.get("bandwidth")}
    value = known.get(variable) or ""
    return value if len(value) <= MAX_PATH_BYTES else ""


def _joined(base: str, reference: str) -> str:
    """Return the reference resolved against its base (RFC 3986 §5.2)."""
    if reference.startswith("/") or _SCHEME.match(reference) or "/" not in base:
        return reference or base
    return f"{base.rpartition('/')[0]}/{reference}" if reference else base


def _parse_dash(folder: str, data: bytes) -> Presentation | None:
    dash = _DashParser(folder)
    parser = expat.ParserCreate()
    parser.StartElementHandler = dash.start
    parser.EndElementHandler = dash.end
    parser.CharacterDataHandler = dash.characters
    parser.StartDoctypeDeclHandler = _refuse
    try:
        parser.Parse(data, True)
    except (expat.ExpatError, _Invalid, ValueError):
        return None
    if not dash.paths and not dash.patterns:
        return None
    patterns: dict[str, frozenset[re.Pattern[str]]] = {}
    for pattern, its_shape in dash.patterns.items():
        patterns[its_shape] = patterns.get(its_shape, frozenset()) | {re.compile(pattern)}
    return Presentation(frozenset(dash.paths), patterns)


def _refuse(*_: object) -> None:
    raise _Invalid
