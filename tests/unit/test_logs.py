"""Log records: one line each, which no client can forge."""

import json
import logging
import re
import sys

import pytest

from app.logs import (
    CURRENT_REQUEST,
    JsonFormatter,
    LineFormatter,
    describe_exception,
    escaped,
    without_secrets,
)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", ""),
        ("GET /films/a%20b.mp4", "GET /films/a%20b.mp4"),
        ("Amélie 映画 🎬", "Amélie 映画 🎬"),
        ("a\nb", r"a\nb"),
        ("a\r\nb\tc", r"a\r\nb\tc"),
        ("\0", r"\x00"),
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("\x07\x08\x7f", r"\x07\x08\x7f"),
        ("\x85\x9b2J", r"\x85\x9b2J"),  # C1: NEL ends lines, CSI is ESC [ in one
        ("a\v\f\x1c\x1d\x1eb", r"a\x0b\x0c\x1c\x1d\x1eb"),  # where str.splitlines would cut
        ("a\u2028b\u2029c", r"a\u2028b\u2029c"),
        ("\u202egnp.exe\u2066", r"\u202egnp.exe\u2066"),  # reversed by a bidirectional override
        ("\u200b\ufeff\u00ad", r"\u200b\ufeff\xad"),  # invisible
        ("\ud800 \udcff", r"\ud800 \udcff"),
        ("\U000e0041", r"\U000e0041"),
    ],
)
def test_escaped_escapes_unprintable_characters(text: str, shown: str) -> None:
    assert escaped(text) == shown
    assert shown.isprintable()
    assert escaped(shown) == shown


def test_escaped_returns_printable_text_for_every_character() -> None:
    everything = "".join(map(chr, range(sys.maxunicode + 1)))
    shown = escaped(everything)
    assert shown.isprintable()
    shown.encode()
    assert len(shown.splitlines()) == 1


def failed(function: object, *arguments: object) -> BaseException:
    try:
        function(*arguments)  # type: ignore[operator]
    except BaseException as error:
        return error
    raise AssertionError


def raise_(error: BaseException) -> None:
    raise error


def chained(*, suppress: bool) -> None:
    try:
        raise_(KeyError("inner"))
    except KeyError as error:
        if suppress:
            raise ValueError("outer") from None
        raise ValueError("outer") from error


def during() -> None:
    try:
        raise_(KeyError("inner"))
    except KeyError:
        raise_(ValueError("outer"))


def endless(depth: int) -> None:
    endless(depth + 1)


def grouped() -> None:
    raise ExceptionGroup("several", [failed(raise_, ValueError("a\nb")), failed(raise_, OSError(5, "x"))])


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError


HERE = r"tests/unit/test_logs\.py:\d+"


@pytest.mark.parametrize(
    ("error", "pattern"),
    [
        (ValueError("never raised"), "ValueError: never raised"),
        (failed(raise_, ValueError("why")), f"ValueError: why at {HERE} raise_ < {HERE} failed"),
        (failed(raise_, ValueError()), f"ValueError at {HERE} raise_ < {HERE} failed"),
        (failed(raise_, Mute()), rf"Mute: \(no message\) at {HERE} raise_ < {HERE} failed"),
        (
            failed(lambda: chained(suppress=False)),
            f"ValueError: outer at {HERE} chained .*; caused by KeyError: 'inner' at {HERE} raise_ < .*",
        ),
        (failed(lambda: chained(suppress=True)), f"ValueError: outer at {HERE} chained < [^;]*"),
        (failed(during), "ValueError: outer at .*; while handling KeyError: 'inner' at .*"),
        (failed(endless, 0), rf"RecursionError: .* at {HERE} endless < ({HERE} endless < ){{11}}…"),
        (
            failed(grouped),
            r"ExceptionGroup: several \(2 sub-exceptions\) "
            rf"\[ValueError: a\nb at .* \| OSError: \[Errno 5\] x at .*\] at {HERE} grouped < .*",
        ),
        (failed(int, "x"), f"ValueError: invalid literal .*: 'x' at {HERE} failed"),
    ],
)
def test_exception_is_formatted_in_one_line(error: BaseException, pattern: str) -> None:
    assert re.fullmatch(pattern, describe_exception(error)), describe_exception(error)


def test_exception_chain_is_cut_off_when_circular() -> None:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    assert describe_exception(first).count("caused by") == 4


def test_traceback_names_library_files_without_their_folder() -> None:
    assert " < json/__init__.py:" in describe_exception(failed(json.loads, "{"))


def line(message: object, *arguments: object, error: BaseException | None = None) -> str:
    info = (type(error), error, error.__traceback__) if error else None
    return LineFormatter().format(
        logging.LogRecord("any", logging.WARNING, __file__, 1, message, arguments, info)
    )


@pytest.mark.parametrize(
    ("output", "shown"),
    [
        (line("plain"), "plain"),
        (line("%s is %d", "a\nb", 3), r"a\nb is 3"),
        (line("Exception in ASGI application\n", error=ValueError("why")), "Exception in ASGI application: "
         "ValueError: why"),
        (line("%d", "no number"), "'%d' ('no number',)"),
        (line("%s %s", "too few"), "'%s %s' ('too few',)"),
        (line(ValueError("\x1b")), r"\x1b"),
    ],
    ids=["plain", "escaped", "an exception", "not its arguments", "too few", "no text"],
)  # fmt: skip
def test_record_is_one_line_of_time_level_and_message(output: str, shown: str) -> None:
    found = re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d WARNING (.*)", output)
    assert found is not None
    assert found[1] == shown


@pytest.mark.parametrize(
    "target",
    [
        "/files/a.mp4?link=secret",
        "/sign-up?%69nvite=secret",
        "/sign-up?%69%6Evi%74%65=secret",
        "/files/a?x=link=&%6cin%6B=secret",
        "/login?next=/files/a%3Flink%3Dsecret",
        "/login?next=/sign-up%3F%2569nvite%253dsecret",
    ],
)
def test_secret_in_target_is_masked_in_every_spelling(target: str) -> None:
    shown = record("%s", f"{target}&folder=a")
    assert without_secrets(shown)
    assert shown.getMessage() == target.replace("secret", "...") + "&folder=a"


def record(message: object, *arguments: object) -> logging.LogRecord:
    return logging.LogRecord("any", logging.ERROR, __file__, 1, message, arguments, None)


@pytest.mark.parametrize(
    "message", ["plain", "a\nb", "\x1b[2J\u2028\u202e", "lone \ud800", 'quotes " and \\']
)
def test_json_record_is_one_object(message: str) -> None:
    output = JsonFormatter().format(record("%s", message))
    assert output.isascii()
    assert output.isprintable()
    found = json.loads(output)
    assert found.keys() == {"time", "level", "message"}
    assert found["message"].encode() == message.encode(errors="backslashreplace")


def test_json_record_has_request_id_when_logged_during_request() -> None:
    class Request:
        id = "7-1"

    token = CURRENT_REQUEST.set(Request())
    try:
        assert json.loads(JsonFormatter().format(record("broken off")))["id"] == "7-1"
    finally:
        CURRENT_REQUEST.reset(token)
