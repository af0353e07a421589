"""State that the processes on one database share: leases and login limits."""

from collections.abc import Callable, Collection, Sequence
from typing import Protocol, TypeVar

from sqlalchemy import delete, func, or_, select
from sqlalchemy.orm import Session

from app.accounts.login_limits import Bucket, pour
from app.database.sql.engine import Database
from app.database.sql.schema import LeaseRow, LoginLimitRow

EXPIRED_KEPT_S = 3600
"""Seconds for which the row of an expired lease is kept."""


class SqlLeases:
    """`storage.leases.LeaseStore` over PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def acquire(self, name: str, holder: str, for_s: float) -> bool:
        # Imported here, so that a server on SQLite does not load the dialect.
        from sqlalchemy.dialects.postgresql import insert  # noqa: PLC0415

        now = self._database.clock
        row = insert(LeaseRow).values(name=name, holder=holder, expires_at=now + for_s)
        ours_or_expired = or_(LeaseRow.holder == holder, LeaseRow.expires_at <= now)
        values = {"holder": holder, "expires_at": now + for_s}
        upsert = row.on_conflict_do_update(index_elements=[LeaseRow.name], set_=values, where=ours_or_expired)
        with self._database.writing_transient() as session:
            acquired = session.scalar(upsert.returning(LeaseRow.name)) is not None
            session.commit()
        return acquired

    def release(self, name: str, holder: str) -> None:
        ours = (LeaseRow.name == name) & (LeaseRow.holder == holder)
        long_expired = LeaseRow.expires_at < self._database.clock - EXPIRED_KEPT_S
        with self._database.writing_transient() as session:
            session.execute(delete(LeaseRow).where(or_(ours, long_expired)))
            session.commit()


T = TypeVar("T")


class WithReserve(Protocol):
    """A function that calls a step, and calls it again with the disk's reserved space if the disk is full."""

    def __call__(self, step: Callable[[], T]) -> T: ...


class SqlLoginLimits:
    """`accounts.login_limits.LoginLimitStore` over an SQL database. Transactions on its rows are serial."""

    def __init__(self, database: Database, with_reserve: WithReserve) -> None:
        self._database = database
        self._with_reserve = with_reserve

    def attempt(self, buckets: Sequence[Bucket]) -> tuple[Bucket, float] | None:
        return self._with_reserve(lambda: self._attempt(buckets))

    def _attempt(self, buckets: Sequence[Bucket]) -> tuple[Bucket, float] | None:
        with self._database.writing_transient() as session:
            now, rows = self._rows(session, [key for one in buckets for key in (one.key, one.unless)])
            levels = {}
            refused: list[tuple[Bucket, float]] = []
            for bucket in buckets:
                if bucket.unless not in rows:
                    row = rows.get(bucket.key)
                    level, elapsed_s = (row.level, max(0.0, now - row.at)) if row else (0.0, 0.0)
                    level, wait_s = pour(level, elapsed_s, limit=bucket.limit, window_s=bucket.window_s)
                    levels[bucket] = level
                    refused += [(bucket, wait_s)] if wait_s else []
            if refused:
                return max(refused, key=lambda one: one[1])
            for bucket, level in levels.items():
                _put(session, bucket, level, now)
            session.commit()
        return None

    def forgive(self, buckets: Collection[Bucket], *, note: str, for_s: float) -> None:
        self._with_reserve(lambda: self._forgive(buckets, note, for_s))

    def _forgive(self, buckets: Collection[Bucket], note: str, for_s: float) -> None:
        with self._database.writing_transient() as session:
            now, rows = self._rows(session, [bucket.key for bucket in buckets])
            for row in rows.values():
                row.level = max(0.0, row.level - 1)
            session.merge(LoginLimitRow(key=note, level=0.0, at=now, expires_at=now + for_s))
            session.commit()

    def sweep(self, most: int) -> None:
        with self._database.writing_transient() as session:
            session.execute(delete(LoginLimitRow).where(LoginLimitRow.expires_at <= self._database.clock))
            over = (session.scalar(select(func.count()).select_from(LoginLimitRow)) or 0) - most
            if over > 0:
                first = select(LoginLimitRow.key).order_by(LoginLimitRow.expires_at).limit(over)
                session.execute(delete(LoginLimitRow).where(LoginLimitRow.key.in_(first)))
            session.commit()

    def _rows(self, session: Session, keys: Sequence[str]) -> tuple[float, dict[str, LoginLimitRow]]:
        """Return the time of the database, and the rows that have not expired."""
        now = session.scalar(select(self._database.clock))
        assert now is not None
        found = session.scalars(select(LoginLimitRow).where(LoginLimitRow.key.in_(keys)))
        return now, {row.key: row for row in found if row.expires_at > now}


def _put(session: Session, bucket: Bucket, level: float, now: float) -> None:
    lasts_s = level * bucket.window_s / bucket.limit  # until it is empty, which equals no row
    session.merge(LoginLimitRow(key=bucket.key, level=level, at=now, expires_at=now + lasts_s))
