"""Logs: every record is one line, and nothing in it drives a terminal or passes for another line."""

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

REQUESTS = "seekable.requests"
"""The logger of requests, one record for each, when its answer has ended."""

REQUEST = '%s - "%s %s HTTP/%s" %d in=%d out=%d s=%.4f id=%s'
REQUEST_FIELDS = ("client", "method", "path", "version", "status", "received", "bytes", "duration", "id")
"""The message of such a record, and what its arguments are called in JSON."""


class Asked(Protocol):
    """A request, as a log knows it."""

    @property
    def id(self) -> str: ...


ASKED: ContextVar[Asked | None] = ContextVar("asked", default=None)
"""The request that is being answered."""

_FRAMES = 12  # of an exception, the innermost; enough to see whose fault it was
_LINKS = 5  # of a chain or a group of exceptions

_ECHOES = (
    # The library of WebSockets repeats what uvicorn has said.
    "connection open",
    "connection closed",
    # uvicorn repeats what was said by the one who broke an answer off, and why.
    "ASGI callable returned without completing response.",
)

# The parameters of signed links and of invites, and where a browser goes on with them after a login.
_SECRET = re.compile(r"((?:link|invite)(?:=|%3[Dd]))[^&\s]+")

_log = logging.getLogger("seekable")


def escaped(text: str) -> str:
    """The text with all that is not printable as a backslash escape, as Python writes it.

    That is every control character (C0, DEL, C1), line and paragraph separators, what turns the direction
    of writing, lone surrogates, and what no font has.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def told(error: BaseException) -> str:
    """An exception, where it was raised, innermost first, and what led to it."""
    parts, link = [], ""
    at: BaseException | None = error
    for _ in range(_LINKS):
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
        message = "(without words)"
    inside = ""
    if isinstance(error, BaseExceptionGroup):
        inside = f" [{' | '.join(told(each) for each in error.exceptions[:_LINKS])}]"
    kind = type(error).__qualname__
    return f"{kind}{message and f': {message}'}{inside}{_trace(error.__traceback__)}"


def _trace(found: TracebackType | None) -> str:
    frames = [
        f"{_short(frame.f_code.co_filename)}:{line} {frame.f_code.co_name}"
        for frame, line in traceback.walk_tb(found)
    ]
    shown = " < ".join(frames[: -_FRAMES - 1 : -1])
    return shown and f" at {shown}{' < …' if len(frames) > _FRAMES else ''}"


def _short(file: str) -> str:
    """The file's path without the folder that it was imported from."""
    homes = [home for home in sys.path if home and file.startswith(f"{home}/")]
    return file[len(max(homes, key=len)) + 1 :] if homes else file


class LineFormatter(logging.Formatter):
    """A record as one line: time, level, message, and the exception if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        return f"{_time(record)} {record.levelname} {escaped(': '.join(_parts(record)))}"


class JsonFormatter(logging.Formatter):
    """A record as one JSON object: what a line has, and of requests each thing by its name."""

    def format(self, record: logging.LogRecord) -> str:
        found: dict[str, Any] = {"time": _time(record), "level": record.levelname}
        if record.name == REQUESTS and isinstance(record.args, tuple):
            asked: dict[str, Any] = dict(zip(REQUEST_FIELDS, record.args, strict=True))
            found["message"] = f"{asked['method']} {asked['path']} {asked['status']}"
            found |= asked | {"duration": round(asked["duration"], 6)}
        else:
            found["message"] = ": ".join(_parts(record))
            if (request := ASKED.get()) is not None:
                found["id"] = request.id
        # ASCII: all that could end a line, or turn it around, is escaped; and no JSON has lone surrogates.
        return json.dumps({key: _whole(value) for key, value in found.items()})


def _whole(value: object) -> object:
    return value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="milliseconds")


def _parts(record: logging.LogRecord) -> list[str]:
    """The message, and the exception if there is one."""
    try:
        message = record.getMessage()
    except Exception:  # a message that does not fit its arguments must not be lost
        message = f"{record.msg!r} {record.args!r}"
    parts = [message.rstrip()]
    if record.exc_info and record.exc_info[1] is not None:
        parts.append(told(record.exc_info[1]))
    if record.stack_info:
        parts.append(record.stack_info)
    return parts


class LineHandler(logging.StreamHandler[Any]):
    """Writes lines; a log that nobody reads any more is no reason to say so to nobody."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        pass


def without_echo(record: logging.LogRecord) -> bool:
    """Whether the record says something new."""
    return record.msg not in _ECHOES


def without_secrets(record: logging.LogRecord) -> bool:
    """Take out of the record of a request what would open a file, or an account, to who reads the log."""
    if isinstance(record.args, tuple):
        record.args = tuple(
            _SECRET.sub(r"\1...", part) if isinstance(part, str) and "=" in part else part
            for part in record.args
        )
    return True


_CONFIG: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"()": "app.logs.LineFormatter"}, "json": {"()": "app.logs.JsonFormatter"}},
    "handlers": {
        "said": {
            "class": "app.logs.LineHandler",
            "stream": "ext://sys.stderr",
            "filters": [without_echo, without_secrets],  # it is told of WebSockets, too
        },
        "asked": {
            "class": "app.logs.LineHandler",
            "stream": "ext://sys.stdout",
            "filters": [without_secrets],
        },
    },
    "root": {"level": "WARNING", "handlers": ["said"]},
    "loggers": {
        "app": {"level": "INFO"},
        "seekable": {"level": "INFO"},
        REQUESTS: {"level": "INFO", "handlers": ["asked"], "propagate": False},
        "uvicorn": {"level": "INFO"},
        "uvicorn.access": {"level": "INFO", "handlers": ["asked"], "propagate": False},
    },
}


def config(form: Format) -> dict[str, Any]:
    """For `logging.config.dictConfig`. Requests go to standard output, all else to standard error."""
    handlers = {name: handler | {"formatter": form} for name, handler in _CONFIG["handlers"].items()}
    return _CONFIG | {"handlers": handlers}


def configure(form: Format = "line") -> None:
    """Let everything that this process has to say become lines."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    logging.config.dictConfig(config(form))
    logging.captureWarnings(True)
    threading.excepthook = _thread_failed
    sys.unraisablehook = _ignored


def _thread_failed(failed: threading.ExceptHookArgs) -> None:
    _log.error("A thread ended by itself", exc_info=failed.exc_value)


def _ignored(ignored: "sys.UnraisableHookArgs") -> None:
    _log.error("%s %r", ignored.err_msg or "Ignored in", ignored.object, exc_info=ignored.exc_value)
