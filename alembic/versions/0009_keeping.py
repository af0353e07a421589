"""Add where the files of a deleted account are moved, and the address where the server listens."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0007"
branch_labels = None
depends_on = None


def text(length=None):
    """Return a string type that PostgreSQL compares and sorts by bytes, as SQLite always does."""
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def upgrade():
    op.add_column("account", sa.Column("keep_library", text(255)))
    op.add_column("account", sa.Column("keep_folder", text()))
    op.create_table(
        "announcement",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("address", text(), nullable=False),
    )


def downgrade():
    op.drop_table("announcement")
    with op.batch_alter_table("account") as altered:
        altered.drop_column("keep_folder")
        altered.drop_column("keep_library")
