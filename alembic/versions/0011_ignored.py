"""Add whether lists leave a file out because of its name."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0005"
branch_labels = None
depends_on = None

SORTS = ("size", "created_at", "updated_at")


def text(length=None):
    """Return a string type that PostgreSQL compares and sorts by bytes, as SQLite always does."""
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def upgrade():
    op.add_column("volume", sa.Column("ignore", text()))
    op.add_column("media", sa.Column("ignored", sa.Boolean, nullable=False, server_default=sa.false()))
    op.create_index("ix_media_path", "media", ["library", "ignored", "folder", "filename"])
    replace_indexes(["library", "ignored"])


def replace_indexes(begins):
    for column in SORTS:
        op.drop_index(f"ix_media_folder_{column}", "media")
        op.drop_index(f"ix_media_library_{column}", "media")
        op.create_index(f"ix_media_folder_{column}", "media", [*begins, "folder", column, "filename"])
        op.create_index(f"ix_media_library_{column}", "media", [*begins, column, "folder", "filename"])


def downgrade():
    op.drop_index("ix_media_path", "media")
    replace_indexes(["library"])
    with op.batch_alter_table("media") as media:
        media.drop_column("ignored")
    with op.batch_alter_table("volume") as volume:
        volume.drop_column("ignore")
