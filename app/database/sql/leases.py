"""Leases as rows: for a database that several machines share."""

from sqlalchemy import delete, or_
from sqlalchemy.dialects.postgresql import insert

from app.database.sql.engine import Database
from app.database.sql.shared_tables import Lease

FORGOTTEN_AFTER_S = 3600
"""What nobody gave back is no row for longer than that."""


class SqlLeases:
    """`storage.leases.LeaseStore` over PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def lease(self, name: str, holder: str, for_s: float) -> bool:
        now = self._database.clock
        row = insert(Lease).values(name=name, holder=holder, expires_at=now + for_s)
        mine_or_nobodys = or_(Lease.holder == holder, Lease.expires_at <= now)
        new = {"holder": holder, "expires_at": now + for_s}
        take = row.on_conflict_do_update(index_elements=[Lease.name], set_=new, where=mine_or_nobodys)
        with self._database.noting() as session:
            taken = session.scalar(take.returning(Lease.name)) is not None
            session.commit()
        return taken

    def release(self, name: str, holder: str) -> None:
        mine = (Lease.name == name) & (Lease.holder == holder)
        forgotten = Lease.expires_at < self._database.clock - FORGOTTEN_AFTER_S
        with self._database.noting() as session:
            session.execute(delete(Lease).where(or_(mine, forgotten)))
            session.commit()
