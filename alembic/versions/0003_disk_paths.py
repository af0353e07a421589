"""Add `disk_path` to its own index, so that SQLite chooses that index.

Without the column SQLite read every row of a folder to list it.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade():
    op.drop_index("ix_media_disk_path", "media")
    create_index(["library", "folder", "disk_path"])


def create_index(columns):
    where = sa.text("disk_path IS NOT NULL")
    op.create_index("ix_media_disk_path", "media", columns, sqlite_where=where, postgresql_where=where)


def downgrade():
    op.drop_index("ix_media_disk_path", "media")
    create_index(["library", "folder"])
