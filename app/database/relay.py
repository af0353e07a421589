"""What processes that share a database hear of one another: changes of files, and how uploads get on.

A process tells its own listeners by itself, and hears nothing of its own here.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol, TypeVar

from app.storage.errors import StorageError
from app.storage.types import Change

PAUSE_S = 0.1
"""How long after it was lost the database is asked again; twice as long each time, up to MAX_PAUSE_S."""

MAX_PAUSE_S = 2.0

CLOSE_WITHIN_S = 0.1
"""How long it is waited for who hears; MongoDB answers a second later, to nobody any more."""

T = TypeVar("T")

_log = logging.getLogger("seekable")


class Hearer(Protocol):
    """Is told of other processes, by any thread; never waits."""

    def changed(self, changes: Sequence[Change]) -> None:
        """These were made, in this order."""

    def missed(self, libraries: Sequence[str] | None = None) -> None:
        """Something may have been changed in these libraries, or in any, that is not told one by one."""

    def progressed(self, library: str, sid: str, text: str) -> None:
        """A text for somebody in the library, who may be connected here."""


class Line(Protocol):
    """How one database lets processes hear of one another. All but `tell` and `interrupt` is called by one
    thread at a time. Raises StorageError when the database does not answer, or refuses."""

    def connect(self) -> bool:
        """Begin to hear, or begin again. Whether nothing was missed since it was heard last."""

    def hear(self, hearer: Hearer) -> None:
        """Wait until others did something, or a while, and tell what they did."""

    def interrupt(self) -> None:
        """Let a thread that hears return soon, and all that hear later. By any thread."""

    def disconnect(self) -> None:
        """Hear nothing any more. Does not raise."""

    def close(self) -> None:
        """Give back what is left. Called once, last but for `interrupt`."""

    def tell(self, library: str, sid: str, text: str) -> None:
        """Let others hear a text for somebody in the library. By any thread."""


class Hearing:
    """Hears of other processes for as long as it is open, whatever becomes of the database meanwhile."""

    def __init__(self, line: Line, hearer: Hearer) -> None:
        self._line = line
        self._hearer = hearer
        self._ended = threading.Event()
        self._failed = False
        # Here, and not in the thread: whoever asks for files later misses nothing.
        self._connected = self._attempt(self._line.connect) is not None
        self._thread = threading.Thread(target=self._run, name="relay", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._ended.set()
        self._line.interrupt()
        self._thread.join(CLOSE_WITHIN_S)

    def tell(self, library: str, sid: str, text: str) -> None:
        """As the line, but that nobody minds if it cannot be told."""
        with suppress(StorageError):
            if not self._ended.is_set():
                self._line.tell(library, sid, text)

    def _run(self) -> None:
        pause = PAUSE_S
        while not self._ended.is_set():
            if self._connected:
                pause = PAUSE_S
                self._hear()
            else:
                self._ended.wait(pause)
                pause = min(2 * pause, MAX_PAUSE_S)
                self._connect_again()
        self._line.disconnect()
        self._line.close()

    def _hear(self) -> None:
        def hear() -> bool:
            self._line.hear(self._hearer)
            return True

        if self._attempt(hear) is None:
            self._connected = False
            self._line.disconnect()

    def _connect_again(self) -> None:
        heard_all = None if self._ended.is_set() else self._attempt(self._line.connect)
        self._connected = heard_all is not None
        if heard_all is False:
            self._hearer.missed()
        if self._connected and self._failed:
            self._failed = False
            _log.info("Changes of other processes are heard of again.")

    def _attempt(self, step: Callable[[], T]) -> T | None:
        """None if it failed, which is said once."""
        try:
            return step()
        except StorageError as error:
            reason, trace = str(error), None
        except Exception as error:  # whatever it is, the server goes on
            reason, trace = repr(error), error
        if not self._failed and not self._ended.is_set():
            self._failed = True
            _log.warning("Changes of other processes are not heard of for now: %s", reason, exc_info=trace)
        return None
