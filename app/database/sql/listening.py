"""How processes on one PostgreSQL hear of one another: by LISTEN, on a connection for nothing else."""

import contextlib
import os
import selectors
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import psycopg
from psycopg.sql import SQL, Identifier

from app.database.relay import Hearer
from app.database.sql import notices
from app.database.sql.answering import AnsweredConnection
from app.storage.errors import StorageUnavailable


class Listening:
    """`relay.Line` over PostgreSQL. What is notified while nobody listens is not kept.

    `origin` is what this process calls itself; `dial` gives a connection, and `notify` sends notifications.
    """

    def __init__(
        self, origin: str, dial: Callable[[], AnsweredConnection], notify: Callable[[Sequence[str]], None]
    ) -> None:
        self._origin, self._dial, self._notify = origin, dial, notify
        self._connection: AnsweredConnection | None = None
        self._wake, self._waker = os.pipe()
        self._open = True
        self._interrupting = threading.Lock()

    def connect(self) -> bool:
        with _translated():
            self._connection = self._dial()
            self._connection.execute(SQL("LISTEN {}").format(Identifier(notices.CHANNEL)))
        return False

    def hear(self, hearer: Hearer) -> None:
        assert self._connection is not None
        with _translated(), selectors.DefaultSelector() as ready:
            # First what has come already, of which the descriptor says nothing any more.
            for told in self._connection.notifies(timeout=0):
                notices.hear(told.payload, self._origin, hearer)
            ready.register(self._connection, selectors.EVENT_READ)
            ready.register(self._wake, selectors.EVENT_READ)
            ready.select()

    def interrupt(self) -> None:
        with self._interrupting:
            if self._open:
                os.write(self._waker, b"x")

    def disconnect(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(psycopg.Error):
                self._connection.close()
            self._connection = None

    def close(self) -> None:
        with self._interrupting:
            self._open = False
            os.close(self._wake)
            os.close(self._waker)

    def tell(self, library: str, sid: str, text: str) -> None:
        self._notify(notices.of_progress(self._origin, library, sid, text))


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except psycopg.Error as error:
        raise StorageUnavailable("The database does not answer.") from error
