"""The words of a name, for finding files by how their words begin."""

import unicodedata
from itertools import groupby

# Names hold them and nobody sees or types them, so they do not count: variation selectors, and below them
# all of category Cf, such as the joiners inside emoji.
_VARIATION_SELECTORS = {*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)}
_ZERO_WIDTH_SPACE = "\u200b"


def words(text: str) -> tuple[str, ...]:
    """Its words, each once, case-folded, in NFC.

    Letters, marks and digits that stand together are a word; so is every symbol (an emoji, say); all else,
    `_` too, only parts words. What is written without spaces (Chinese, Japanese, Thai) is one word up to
    the next sign that is not a letter, and is found by how that begins.
    """
    folded = unicodedata.normalize("NFC", text).casefold()
    seen = unicodedata.normalize("NFC", "".join(filter(_is_seen, folded)))
    found: list[str] = []
    for kind, characters in groupby(seen, _kind):
        if kind == "symbol":
            found.extend(characters)
        elif kind == "word":
            found.append("".join(characters))
    return tuple(dict.fromkeys(found))


def wanted(query: str) -> list[str]:
    """The words to look for, without those that another one begins with: what has that has them."""
    found = words(query)
    return [word for word in found if not any(other != word and other.startswith(word) for other in found)]


def _is_seen(character: str) -> bool:
    if ord(character) in _VARIATION_SELECTORS:
        return False
    return unicodedata.category(character) != "Cf" or character == _ZERO_WIDTH_SPACE


def _kind(character: str) -> str:
    category = unicodedata.category(character)
    if category[0] in "LMN":
        return "word"
    return "symbol" if category == "So" else "space"
