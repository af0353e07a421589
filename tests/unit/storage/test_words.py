"""The words that a name is found by."""

import sys
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.storage.search_tokens import wanted, words
from app.storage.types import MAX_SEGMENT_BYTES


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", ""),
        ("The_Big.Sleep (1946) [1080p].mkv", "the big sleep 1946 1080p mkv"),
        ("S01E02-pilot", "s01e02 pilot"),
        ("don't", "don t"),
        ("one One ONE two", "one two"),
        ("  a\tb\u00a0c\u3000d\u200be", "a b c d e"),  # spaces of all kinds, the zero-width one too
        ("... - _ % + $ # ´", ""),
        ("C++ & C#", "c"),
        ("½ x² ٣", "½ x² ٣"),
        ("STRASSE straße", "strasse"),
        ("ﬁlm FILM", "film"),
        ("ΣΊΣΥΦΟΣ σίσυφος", "σίσυφοσ"),
        ("Ame\u0301lie", "am\u00e9lie"),
        ("\u0390 \u03aa\u0301", "\u0390"),  # grows in folding, and shrinks again in NFC
        ("हिन्दी फिल्म", "हिन्दी फिल्म"),  # its marks are parts of words
        ("می\u200cخواهم میخواهم", "میخواهم"),  # with a joiner and without
        ("co\u00adoperate\u202e", "cooperate"),
        ("e\u200d\u0301", "\u00e9"),  # NFC comes after what is not seen is taken out
        ("千と千尋の神隠し (2001)", "千と千尋の神隠し 2001"),  # no spaces: one word
        ("신과 함께", "신과 함께"),
        ("🎬film🎬", "🎬 film"),
        ("❤\ufe0f ❤", "❤"),
        ("👨\u200d👩\u200d👧", "👨 👩 👧"),
        ("👍🏽", "👍"),
        ("1\ufe0f\u20e3", "1\u20e3"),
        ("🇫🇷", "🇫 🇷"),
        ("\ud800 x\udfff", "x"),
    ],
)
def test_words(text: str, found: str) -> None:
    assert words(text) == tuple(found.split(" ") if found else ())


@settings(deadline=None)
@given(st.text(max_size=40))
def test_the_ways_to_write_a_text_have_the_same_words(text: str) -> None:
    for form in ("NFC", "NFD"):
        assert words(unicodedata.normalize(form, text)) == words(text)
    assert words(f" {text}-") == words(text)


@settings(deadline=None)
@given(st.text(st.characters(categories=["L", "N", "P", "So", "Zs"]), max_size=40))
def test_words_of_words_are_they_themselves(text: str) -> None:
    assert words(" ".join(words(text))) == words(text)


def test_no_word_of_a_name_is_longer_than_its_column() -> None:
    """Names are in NFC. The longest that one can become is that of its character that grows most."""
    growth = max(
        sum(map(len, words(character))) / len(character.encode())
        for character in map(chr, range(sys.maxunicode + 1))
        if character.casefold() != character and unicodedata.is_normalized("NFC", character)
    )
    assert growth * MAX_SEGMENT_BYTES <= 1024


@pytest.mark.parametrize(
    ("query", "found"),
    [("", ""), ("the e", "the e"), ("th the", "the"), ("THE the thesis", "thesis"), ("b ab", "b ab")],
)
def test_a_word_that_another_one_begins_with_is_not_looked_for(query: str, found: str) -> None:
    assert wanted(query) == found.split()
