"""The search words of a name."""

import sys
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.storage.search_tokens import query_tokens, tokenize
from app.storage.types import MAX_SEGMENT_BYTES


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", ""),
        ("The_Big.Sleep (1946) [1080p].mkv", "the big sleep 1946 1080p mkv"),
        ("S01E02-pilot", "s01e02 pilot"),
        ("don't", "don t"),
        ("one One ONE two", "one two"),
        ("  a\tb\u00a0c\u3000d\u200be", "a b c d e"),  # spaces of all kinds, including zero width
        ("... - _ % + $ # ´", ""),
        ("C++ & C#", "c"),
        ("½ x² ٣", "½ x² ٣"),
        ("STRASSE straße", "strasse"),
        ("ﬁlm FILM", "film"),
        ("ΣΊΣΥΦΟΣ σίσυφος", "σίσυφοσ"),
        ("Ame\u0301lie", "am\u00e9lie"),
        ("\u0390 \u03aa\u0301", "\u0390"),  # grows in folding, and shrinks again in NFC
        ("हिन्दी फिल्म", "हिन्दी फिल्म"),  # its combining marks are parts of words
        ("می\u200cخواهم میخواهم", "میخواهم"),  # with and without the joiner
        ("co\u00adoperate\u202e", "cooperate"),
        ("e\u200d\u0301", "\u00e9"),  # invisible characters are removed before NFC
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
def test_tokenize_splits_and_folds_text(text: str, found: str) -> None:
    assert tokenize(text) == tuple(found.split(" ") if found else ())


@settings(deadline=None)
@given(st.text(max_size=40))
def test_tokens_are_equal_for_all_normal_forms(text: str) -> None:
    for form in ("NFC", "NFD"):
        assert tokenize(unicodedata.normalize(form, text)) == tokenize(text)
    assert tokenize(f" {text}-") == tokenize(text)


@settings(deadline=None)
@given(st.text(st.characters(categories=["L", "N", "P", "So", "Zs"]), max_size=40))
def test_tokenize_is_idempotent(text: str) -> None:
    assert tokenize(" ".join(tokenize(text))) == tokenize(text)


def test_longest_word_of_name_fits_its_column() -> None:
    """Names are in NFC. The longest possible word consists of the character that grows most."""
    growth = max(
        sum(map(len, tokenize(character))) / len(character.encode())
        for character in map(chr, range(sys.maxunicode + 1))
        if character.casefold() != character and unicodedata.is_normalized("NFC", character)
    )
    assert growth * MAX_SEGMENT_BYTES <= 1024


@pytest.mark.parametrize(
    ("query", "found"),
    [("", ""), ("the e", "the e"), ("th the", "the"), ("THE the thesis", "thesis"), ("b ab", "b ab")],
)
def test_query_tokens_drops_words_that_are_prefixes_of_others(query: str, found: str) -> None:
    assert query_tokens(query) == found.split()
