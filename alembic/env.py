"""Run migrations on the connection that `app.database.sql.opening` passes in.

Without one (`alembic revision --autogenerate` in a checkout), open the database that the settings name.

Migrations run in the order of `down_revision` (`alembic history`), not of their numbers: 0011 precedes 0006.
"""

from alembic import context

from app.database.sql import schema  # noqa: F401
from app.database.sql.schema import Table


def run(connection):
    context.configure(
        connection=connection,
        target_metadata=Table.metadata,
        transactional_ddl=True,  # also on SQLite, where the caller has begun the transaction explicitly
        render_as_batch=True,  # SQLite cannot alter a column in place
    )
    with context.begin_transaction():
        context.run_migrations()


connection = context.config.attributes.get("connection")
if connection is not None:
    run(connection)
else:
    from contextlib import ExitStack

    from app.database.filesystem.opening import open_database
    from app.settings import read

    with ExitStack() as stack, open_database(read(), stack).writing() as session:
        run(session.connection())
        session.commit()
