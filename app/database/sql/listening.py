"""How processes on one PostgreSQL hear of one another: by LISTEN, on a connection for nothing else."""

import contextlib
import os
import selectors
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg.sql import SQL, Identifier

from app.database.relay import Hearer
from app.database.sql import notices
from app.database.sql.answering import AnsweredConnection
from app.database.sql.postgresql import CHANNEL, Postgresql
from app.storage.errors import StorageUnavailable


class Listening:
    """`relay.Line` over PostgreSQL. What is notified while nobody listens is not kept."""

    def __init__(self, database: Postgresql) -> None:
        self._database = database
        self._connection: AnsweredConnection | None = None
        self._wake, self._waker = os.pipe()

    def close(self) -> None:
        """Nobody may hear or interrupt it afterwards."""
        os.close(self._wake)
        os.close(self._waker)

    def connect(self) -> bool:
        with _translated():
            self._connection = self._database.dial()
            self._connection.execute(SQL("LISTEN {}").format(Identifier(CHANNEL)))
        return False

    def hear(self, hearer: Hearer) -> None:
        assert self._connection is not None
        with _translated(), selectors.DefaultSelector() as ready:
            # First what has come already, of which the descriptor says nothing any more.
            for told in self._connection.notifies(timeout=0):
                notices.hear(told.payload, self._database.origin, hearer)
            ready.register(self._connection, selectors.EVENT_READ)
            ready.register(self._wake, selectors.EVENT_READ)
            ready.select()

    def interrupt(self) -> None:
        os.write(self._waker, b"x")

    def disconnect(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(psycopg.Error):
                self._connection.close()
            self._connection = None

    def tell(self, library: str, sid: str, text: str) -> None:
        told = notices.of_progress(self._database.origin, library, sid, text)
        with self._database.reading() as session:
            self._database.notify(session, told)
            session.commit()


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except psycopg.Error as error:
        raise StorageUnavailable("The database does not answer.") from error
