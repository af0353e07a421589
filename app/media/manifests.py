"""The files that an HLS playlist (RFC 8216) or a DASH manifest (ISO/IEC 23009-1) names. Pure.

Whoever uploads writes them, so that nothing here takes more than linear time, and XML with a DTD, which could
define entities, is refused.
"""

import posixpath
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote
from xml.parsers import expat

from app.storage.types import MAX_PATH_BYTES

MAX_NAMES = 100_000
"""Files that one presentation names: a day of segments of a second."""

MAX_PATTERNS = 200
"""Templates of a DASH manifest."""

MAX_LEVELS = 8
"""Elements of a DASH manifest inside one another that have pieces; the standard has four."""

MAX_CHARACTERS = 4096
"""Of an address; no path of a library is longer."""

MAX_EXPANDED = 4 << 20
"""Characters of all addresses of a DASH manifest with their bases: a short manifest can use a long base, or a
long template, for each of many pieces."""

EXTENSIONS = ("m3u8", "mpd")

_HLS_TAGS = ("#EXT-X-TARGETDURATION", "#EXT-X-STREAM-INF")
"""One of them is in each media playlist (RFC 8216 4.3.3.1), or in each master playlist (4.3.4.2)."""

_URI = re.compile(r'[:,]URI="([^"]*)"')
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_VARIABLE = re.compile(r"\$(\w*)(?:%0\d{1,3}[diouxX])?\$")
_NUMBERS = frozenset({"Number", "Time", "SubNumber"})
_DIGITS = "[0-9]++"
"""Possessive, so that no number of them takes more than linear time."""

_ELSEWHERE = "/"
"""A base at which no address is one of the library."""


@dataclass(frozen=True)
class Presentation:
    """A film in pieces."""

    paths: frozenset[str]
    patterns: Mapping[str, frozenset[re.Pattern[str]]] = field(default_factory=dict)
    """By the shapes of the paths that they match."""

    def names(self, path: str) -> bool:
        """Return whether the file at the path is one of the pieces."""
        return path in self.paths or any(
            pattern.fullmatch(path) for pattern in self.patterns.get(shape(path), ())
        )

    def __len__(self) -> int:
        """Return the number of paths and patterns."""
        return len(self.paths) + self.count_patterns()

    def count_patterns(self) -> int:
        """Return the number of patterns, each of which costs as much as many paths."""
        return sum(map(len, self.patterns.values()))


def merged(presentations: Iterable[Presentation]) -> Presentation:
    """Return all of them as one, in which a look-up costs the same however many there are."""
    paths: set[str] = set()
    patterns: dict[str, frozenset[re.Pattern[str]]] = {}
    for one in presentations:
        paths |= one.paths
        for of_shape, some in one.patterns.items():
            patterns[of_shape] = patterns.get(of_shape, frozenset()) | some
    return Presentation(frozenset(paths), patterns)


def shape(path: str) -> str:
    """Return the path with each number as 0. A pattern matches paths of one shape only."""
    return re.sub("[0-9]+", "0", path)


def is_manifest(filename: str) -> bool:
    """Return whether a file of this name may be a playlist of HLS or a manifest of DASH."""
    return filename.rpartition(".")[2].lower() in EXTENSIONS


def presentation(path: str, data: bytes) -> Presentation | None:
    """Return the presentation that the file at the path describes; None if it describes none.

    A playlist of M3U that is not one of HLS, such as that of an album, is none.
    """
    folder = path.rpartition("/")[0]
    text = data.decode("utf-8-sig", "replace")
    if text.startswith("#EXTM3U"):
        return _hls(folder, text)
    return _dash(folder, data)


def _hls(folder: str, text: str) -> Presentation | None:
    if not any(tag in text for tag in _HLS_TAGS):
        return None
    paths: set[str] = set()
    for match in re.finditer(r"[^\r\n]+", text):
        line = match[0].strip()
        uris = _URI.findall(line) if line.startswith("#") else [line]
        paths.update(found for uri in uris if (found := _resolved(folder, uri)) is not None)
        if len(paths) >= MAX_NAMES:
            break
    return Presentation(frozenset(paths)) if paths else None


def _resolved(folder: str, reference: str) -> str | None:
    """The path in the library; None for an address elsewhere."""
    if not 0 < len(reference) <= MAX_CHARACTERS or reference.startswith("/") or _SCHEME.match(reference):
        return None
    name = unquote(re.split("[?#]", reference, maxsplit=1)[0])
    found = posixpath.normpath(posixpath.join(folder, name))
    if not name or found.startswith("..") or len(found) > MAX_PATH_BYTES:
        return None  # before it is normalised, which takes quadratic time for combining characters
    return unicodedata.normalize("NFC", found)


class _Refused(Exception):
    """It is no manifest, or not one that is taken."""


@dataclass
class _Level:
    """An element of a manifest that is open, with what it gives to those inside."""

    base: str
    template: Mapping[str, str]
    identity: Mapping[str, str]
    has_list: bool = False
    has_base: bool = False


_LEVELS = frozenset({"MPD", "Period", "AdaptationSet", "Representation"})
_TEMPLATES = ("media", "initialization", "index")


class _Dash:
    """Goes through a manifest once (5.3.9: segments; 5.6: base URLs)."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self.paths: set[str] = set()
        self.patterns: dict[str, str] = {}
        self._levels: list[_Level] = []
        self._base: str | None = None
        self._left = MAX_EXPANDED

    def start(self, qualified: str, attributes: dict[str, str]) -> None:
        name = qualified.rpartition(":")[2]
        if not self._levels and name != "MPD":
            raise _Refused
        if name in _LEVELS:
            if len(self._levels) == MAX_LEVELS:
                raise _Refused
            above = self._levels[-1] if self._levels else _Level("", {}, {})
            self._levels.append(_Level(above.base, above.template, attributes, above.has_list))
            return
        level = self._levels[-1]
        if name == "BaseURL":
            self._base = ""
        elif name == "SegmentTemplate":
            given = {one: attributes[one] for one in _TEMPLATES if one in attributes}
            short = {one: text if len(text) <= MAX_CHARACTERS else "" for one, text in given.items()}
            level.template = {**level.template, **short}
        elif name == "SegmentURL":
            level.has_list = True
            self._add(level.base, attributes.get("media", ""))
        elif name in ("Initialization", "RepresentationIndex"):
            self._add(level.base, attributes.get("sourceURL", ""))

    def characters(self, text: str) -> None:
        if self._base is not None and len(self._base) <= MAX_CHARACTERS:
            self._base += text

    def end(self, qualified: str) -> None:
        name = qualified.rpartition(":")[2]
        if name in _LEVELS:
            level = self._levels.pop()
            if name == "Representation":
                self._add_pieces(level)
        elif name == "BaseURL" and self._base is not None:
            if not self._levels[-1].has_base:  # further ones are the same in other places
                base = _joined(self._levels[-1].base, self._base.strip())
                self._levels[-1].base = base if len(base) <= MAX_CHARACTERS else _ELSEWHERE
                self._levels[-1].has_base = True
            self._base = None

    def _add_pieces(self, level: _Level) -> None:
        if not level.template and not level.has_list:
            self._add(level.base, "")  # one file
        for name in _TEMPLATES:
            if template := level.template.get(name):
                self._add_template(level, template)

    def _add(self, base: str, reference: str) -> None:
        found = self._resolved(base, reference)
        if found is not None:
            self._note(found)

    def _note(self, path: str) -> None:
        if len(self.paths) < MAX_NAMES:
            self.paths.add(path)

    def _resolved(self, base: str, reference: str) -> str | None:
        """Return the path in the library; None for an address elsewhere, and when all are too much."""
        self._left -= len(base) + len(reference)
        return None if self._left < 0 else _resolved(self._folder, _joined(base, reference))

    def _add_template(self, level: _Level, template: str) -> None:
        self._left -= len(template)
        if self._left < 0:
            return
        # NUL is in no XML, and so in no other part.
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
    """The reference at its base (RFC 3986 5.2)."""
    if reference.startswith("/") or _SCHEME.match(reference) or "/" not in base:
        return reference or base
    return f"{base.rpartition('/')[0]}/{reference}" if reference else base


def _dash(folder: str, data: bytes) -> Presentation | None:
    dash = _Dash(folder)
    parser = expat.ParserCreate()
    parser.StartElementHandler = dash.start
    parser.EndElementHandler = dash.end
    parser.CharacterDataHandler = dash.characters
    parser.StartDoctypeDeclHandler = _refuse
    try:
        parser.Parse(data, True)
    except (expat.ExpatError, _Refused, ValueError):
        return None
    if not dash.paths and not dash.patterns:
        return None
    patterns: dict[str, frozenset[re.Pattern[str]]] = {}
    for pattern, of_shape in dash.patterns.items():
        patterns[of_shape] = patterns.get(of_shape, frozenset()) | {re.compile(pattern)}
    return Presentation(frozenset(dash.paths), patterns)


def _refuse(*_: object) -> None:
    raise _Refused
