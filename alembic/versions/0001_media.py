"""Create the tables of the volume and of the files."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def text(length=None):
    """Return a string type that PostgreSQL compares and sorts by bytes, as SQLite always does."""
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def upgrade():
    op.create_table("volume", sa.Column("id", text(32), primary_key=True))
    op.create_table(
        "media",
        sa.Column("id", text(32), primary_key=True),
        sa.Column("library", text(255), nullable=False),
        sa.Column("folder", text(1024), nullable=False),
        sa.Column("filename", text(255), nullable=False),
        sa.Column("content_type", text(255), nullable=False),
        sa.Column("etag", text(64), nullable=False),
        sa.Column("sha256", text(64)),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("mtime_ns", sa.BigInteger, nullable=False),
        sa.Column("inode", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("library", "folder", "filename", name="uq_media_path"),
    )


def downgrade():
    op.drop_table("media")
    op.drop_table("volume")
