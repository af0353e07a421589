"""The words of a file name, which a search compares by their beginnings."""

import unicodedata
from itertools import groupby

# Names contain them although they are invisible and hard to type, so they do not count: variation selectors,
# and in `_is_visible` all characters of category Cf, such as the joiners inside emoji.
_VARIATION_SELECTORS = {*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)}
_ZERO_WIDTH_SPACE = "\u200b"


def tokenize(text: str) -> tuple[str, ...]:
    """Return the words of the text without repetition, case-folded and in NFC.

    A word is a run of letters, marks and digits, or a single symbol such as an emoji; all other characters,
    `_` too, separate words. Text without spaces (Chinese, Japanese, Thai) is one word up to the next
    character that is not a letter, and is found by the beginning of that word.
    """
    folded = unicodedata.normalize("NFC", text).casefold()
    visible = unicodedata.normalize("NFC", "".join(filter(_is_visible, folded)))
    tokens: list[str] = []
    for kind, characters in groupby(visible, _kind):
        if kind == "symbol":
            tokens.extend(characters)
        elif kind == "word":
            tokens.append("".join(characters))
    return tuple(dict.fromkeys(tokens))


def query_tokens(query: str) -> list[str]:
    """Return the words to search for, without those that are prefixes of another one and so match with it."""
    tokens = tokenize(query)
    return [
        token for token in tokens if not any(other != token and other.startswith(token) for other in tokens)
    ]


def _is_visible(character: str) -> bool:
    if ord(character) in _VARIATION_SELECTORS:
        return False
    return unicodedata.category(character) != "Cf" or character == _ZERO_WIDTH_SPACE


def _kind(character: str) -> str:
    category = unicodedata.category(character)
    if category[0] in "LMN":
        return "word"
    return "symbol" if category == "So" else "space"
