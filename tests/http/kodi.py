"""How Kodi (xbmc/filesystem/HTTPDirectory.cpp) reads an index page in the format of nginx."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from html import unescape
from urllib.parse import unquote

_FLAGS = re.IGNORECASE | re.DOTALL | re.ASCII
_ITEM = re.compile(r'<a href="([^"]*)"[^>]*>\s*(.*?)\s*</a>(.+?)(?=<a|</tr|$)', _FLAGS)
_DATE = re.compile(r"([0-9]{2})-([A-Z]{3})-([0-9]{4}) ([0-9]{2}):([0-9]{2})", _FLAGS)
_CELL_SIZE = re.compile(r"> *([0-9.]+) *(B|K|M|G| )(iB)?</td>", _FLAGS)
_SIZE = re.compile(r" +([0-9]+)(B|K|M|G)?(?=\s|<|$)", _FLAGS)
_OLD_ITEM = re.compile(r'<a href="(.*)">(.*)</a>', _FLAGS)
_OLD_DATE = re.compile(r"</a> +[0-9]{2}-[A-Z]{3}-[0-9]{4} [0-9]{2}:[0-9]{2} ", _FLAGS)
_OLD_SIZE = re.compile(r" +([0-9]+)(B|K|M|G)?$", _FLAGS)
_BLANK = " \t\r\n\f\v"
_UNITS = {None: 1, "": 1, " ": 1, "B": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


@dataclass(frozen=True)
class Item:
    """One entry of Kodi's list; a folder has no date and size 0."""

    name: str
    is_folder: bool
    date: datetime | None
    size: int


def items(page: str) -> list[Item]:
    """Return the entries that Kodi 20 shows for the page."""
    found = []
    for link, text, trailer in _ITEM.findall(page):
        name = _name(link, text)
        if name is None:
            continue
        is_folder, metadata = link.endswith("/"), trailer.strip()
        date = _DATE.search(metadata)
        size = None if is_folder else _CELL_SIZE.search(metadata) or _SIZE.search(metadata)
        found.append(
            Item(
                name,
                is_folder,
                date and datetime.strptime(date[0], "%d-%b-%Y %H:%M").replace(tzinfo=UTC),
                int(float(size[1]) * _UNITS[size[2]]) if size else 0,
            )
        )
    return found


def old_sizes(page: str) -> dict[str, int]:
    """Return the size of each file as Kodi 12 to 17 reads it, line by line."""
    sizes = {}
    for line in page.split("\n"):
        item = _OLD_ITEM.search(line)
        name = item and _name(item[1], item[2])
        if item and name is not None and not item[1].endswith("/"):
            assert _OLD_DATE.search(line)
            size = _OLD_SIZE.search(line)
            assert size
            sizes[name] = int(size[1])
    return sizes


def _name(link: str, text: str) -> str | None:
    """Return the name of an entry, or None if its text differs from its target."""
    name, target = (part.removesuffix("/") for part in (unescape(text.strip(_BLANK)), link.partition("?")[0]))
    return name if name == unquote(unescape(target)) and name not in ("", "..") else None
