"""Add whether a file is UTF-8, and correct types under which players did not find films."""

import sqlalchemy as sa
from alembic import op

from app.http.media_types import OUTDATED_TYPES, correct_outdated

revision = "0006"
down_revision = "0011"
branch_labels = None
depends_on = None

UNJUDGED = "is_utf8 IS NULL AND content_type >= 'text/' AND content_type < 'text0'"


def upgrade():
    for table in ("media", "departed"):
        op.add_column(table, sa.Column("is_utf8", sa.Boolean))
        retype(sa.table(table, *map(sa.column, ("id", "content_type", "filename"))))
    where = sa.text(UNJUDGED)
    op.create_index("ix_media_unjudged", "media", ["id"], sqlite_where=where, postgresql_where=where)


def retype(table):
    rows = op.get_bind().execute(sa.select(table).where(table.c.content_type.in_(OUTDATED_TYPES))).all()
    for identity, content_type, filename in rows:
        changed = table.update().where(table.c.id == identity)
        op.execute(changed.values(content_type=correct_outdated(content_type, filename)))


def downgrade():
    op.drop_index("ix_media_unjudged", "media")
    for table in ("media", "departed"):
        with op.batch_alter_table(table) as altered:
            altered.drop_column("is_utf8")
