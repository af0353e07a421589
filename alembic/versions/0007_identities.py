"""Add ctime and device, by which a row recognizes its file, and a second ETag of the same bytes."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

HASH_FIRST = sa.text("doubtful OR other_sha256 IS NOT NULL")


def text(length=None):
    """Return a string type that PostgreSQL compares and sorts by bytes, as SQLite always does."""
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def upgrade():
    # NULL in existing rows: no file is hashed again for it, and no ETag changes.
    for table in ("media", "departed"):
        op.add_column(table, sa.Column("ctime_ns", sa.BigInteger))
        op.add_column(table, sa.Column("device", sa.BigInteger))
    doubtful = sa.Column("doubtful", sa.Boolean, nullable=False, server_default=sa.false())
    op.add_column("media", doubtful)
    op.add_column("media", sa.Column("other_etag", text(64)))
    op.add_column("media", sa.Column("other_sha256", text(64)))
    op.add_column("media", sa.Column("other_until", sa.DateTime(timezone=True)))
    op.execute("UPDATE media SET doubtful = true WHERE unverified AND sha256 IS NOT NULL")
    op.create_index(
        "ix_media_hash_first", "media", ["id"], sqlite_where=HASH_FIRST, postgresql_where=HASH_FIRST
    )


def downgrade():
    op.drop_index("ix_media_hash_first", "media")
    for column in ("other_until", "other_sha256", "other_etag", "doubtful", "device", "ctime_ns"):
        op.drop_column("media", column)
    for column in ("device", "ctime_ns"):
        op.drop_column("departed", column)
