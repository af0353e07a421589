"""Logging: each record is one line, and no value in it can control a terminal or forge another line."""

import json
import logging
import logging.config
import re
import sys
import threading
import traceback
from contextvars import ContextVar
from datetime import datetime
from types import TracebackType
from typing import Any, Literal, Protocol

Format = Literal["line", "json"]


class LoggedRequest(Protocol):
    """The part of a request that log records name."""

    @property
    def id(self) -> str: ...


CURRENT_REQUEST: ContextVar[LoggedRequest | None] = ContextVar("current_request", default=None)
"""The request that this context answers."""

_MAX_FRAMES = 12  # innermost frames of an exception: enough to find the faulty code
_MAX_LINKS = 5  # exceptions of a chain or a group

_REPETITIONS = (
    # The WebSocket library repeats records of uvicorn.
    "connection open",
    "connection closed",
    # The code that aborts a response has logged the reason.
    "ASGI callable returned without completing response.",
)


def _spellings(text: str) -> str:
    """Return an expression for the text with any characters percent-encoded, also more than once."""
    return "".join(f"(?:{c}|%(?:25)*{ord(c):x})" for c in text)


# Parameters of signed links and invites, also in the target of a redirect after a login. The server decodes
# their names.
_SECRET = re.compile(
    rf"((?:{_spellings('link')}|{_spellings('invite')}){_spellings('=')})[^&\s]+", re.IGNORECASE
)

log = logging.getLogger(__name__)


def escaped(text: str) -> str:
    """Return the text with each unprintable character as a backslash escape, as in Python literals.

    Unprintable are control characters (C0, DEL, C1), line and paragraph separators, characters that change
    the direction of writing, lone surrogates, and unassigned code points.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def describe_exception(error: BaseException) -> str:
    """Return one line with an exception, its frames from the innermost, and its causes."""
    parts, link = [], ""
    at: BaseException | None = error
    for _ in range(_MAX_LINKS):
        if at is None:
            break
        parts.append(link + _one(at))
        if at.__cause__ is not None:
            at, link = at.__cause__, "caused by "
        else:
            at, link = (None if at.__suppress_context__ else at.__context__), "while handling "
    return "; ".join(parts)


def _one(error: BaseException) -> str:
    try:
        message = str(error)
    except Exception:
        message = "(no message)"
    inside = ""
    if isinstance(error, BaseExceptionGroup):
        inside = f" [{' | '.join(describe_exception(each) for each in error.exceptions[:_MAX_LINKS])}]"
    kind = type(error).__qualname__
    return f"{kind}{message and f': {message}'}{inside}{_trace(error.__traceback__)}"


def _trace(found: TracebackType | None) -> str:
    frames = [
        f"{_short(frame.f_code.co_filename)}:{line} {frame.f_code.co_name}"
        for frame, line in traceback.walk_tb(found)
    ]
    shown = " < ".join(frames[: -_MAX_FRAMES - 1 : -1])
    return shown and f" at {shown}{' < …' if len(frames) > _MAX_FRAMES else ''}"


def _short(file: str) -> str:
    """Return the file's path relative to the folder that it was imported from."""
    homes = [home for home in sys.path if home and file.startswith(f"{home}/")]
    return file[len(max(homes, key=len)) + 1 :] if homes else file


class LineFormatter(logging.Formatter):
    """Formats a record as one line: time, level, message, and the exception if it has one."""

    def format(self, record: logging.LogRecord) -> str:
        return f"{_time(record)} {record.levelname} {escaped(': '.join(_parts(record)))}"


class JsonFormatter(logging.Formatter):
    """Formats a record as one JSON object: the parts of a line, and the id of the current request."""

    def format(self, record: logging.LogRecord) -> str:
        found = {"time": _time(record), "level": record.levelname}
        found["message"] = ": ".join(_parts(record))
        if (request := CURRENT_REQUEST.get()) is not None:
            found["id"] = request.id
        # json.dumps escapes line separators and direction marks, as ASCII.
        return json.dumps({key: without_surrogates(value) for key, value in found.items()})


def without_surrogates(text: str) -> str:
    """Return the text with lone surrogates as backslash escapes: they are not JSON."""
    return text.encode(errors="backslashreplace").decode()


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="milliseconds")


def _parts(record: logging.LogRecord) -> list[str]:
    """Return the message, the exception and the stack, as far as the record has them."""
    try:
        message = record.getMessage()
    except Exception:  # a message that does not fit its arguments must not be lost
        message = f"{record.msg!r} {record.args!r}"
    parts = [message.rstrip()]
    if record.exc_info and record.exc_info[1] is not None:
        parts.append(describe_exception(record.exc_info[1]))
    if record.stack_info:
        parts.append(record.stack_info)
    return parts


class LineHandler(logging.StreamHandler[Any]):
    """Writes lines, and ignores errors: after its reader has gone, a log has no place to report them."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        pass


def without_repetitions(record: logging.LogRecord) -> bool:
    """Filter: drop records that repeat earlier ones."""
    return record.msg not in _REPETITIONS


def masked(text: str) -> str:
    """Return the text without the parameters with which a reader could open a file or an account."""
    return _SECRET.sub(r"\1...", text) if "=" in text else text


def without_secrets(record: logging.LogRecord) -> bool:
    """Filter: mask secrets in the arguments of a record."""
    if isinstance(record.args, tuple):
        record.args = tuple(masked(part) if isinstance(part, str) else part for part in record.args)
    return True


_FORMATTERS: dict[Format, type[logging.Formatter]] = {"line": LineFormatter, "json": JsonFormatter}


def formatter(form: Format) -> logging.Formatter:
    """Return the formatter of records in this format."""
    return _FORMATTERS[form]()


_CONFIG: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"()": "app.logs.LineFormatter"}, "json": {"()": "app.logs.JsonFormatter"}},
    "handlers": {
        "stderr": {
            "class": "app.logs.LineHandler",
            "stream": "ext://sys.stderr",
            "filters": [without_repetitions, without_secrets],  # records of WebSockets contain URLs, too
        },
    },
    "root": {"level": "WARNING", "handlers": ["stderr"]},
    "loggers": {
        "app": {"level": "INFO"},
        "uvicorn": {"level": "INFO"},
    },
}


def config(form: Format) -> dict[str, Any]:
    """Return a dictionary for `logging.config.dictConfig`: all records to stderr.

    The log of requests is no part of it: see `server.request_log`.
    """
    handlers = {name: handler | {"formatter": form} for name, handler in _CONFIG["handlers"].items()}
    return _CONFIG | {"handlers": handlers}


def configure(form: Format = "line") -> None:
    """Log records, warnings and unhandled exceptions of this process as lines."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    logging.config.dictConfig(config(form))
    logging.captureWarnings(True)
    threading.excepthook = _thread_failed
    sys.unraisablehook = _unraisable


def _thread_failed(failed: threading.ExceptHookArgs) -> None:
    log.error("A thread ended with an exception", exc_info=failed.exc_value)


def _unraisable(failed: "sys.UnraisableHookArgs") -> None:
    log.error("%s %r", failed.err_msg or "Ignored in", failed.object, exc_info=failed.exc_value)
