"""The words of a name, for finding files by how their words begin."""

import unicodedata
from itertools import groupby


def words(text: str) -> tuple[str, ...]:
    """Its words, each once, case-folded, in NFC. Letters, marks and digits that stand together are a word;
    so is every symbol (an emoji, say); all else only parts words."""
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())
    found: list[str] = []
    for kind, characters in groupby(folded, _kind):
        if kind == "symbol":
            found.extend(characters)
        elif kind == "word":
            found.append("".join(characters))
    return tuple(dict.fromkeys(found))


def _kind(character: str) -> str:
    category = unicodedata.category(character)
    if category[0] in "LMN":
        return "word"
    return "symbol" if category == "So" else "space"
