"""Create the tables that servers on one database share: leases, and counts of attempts."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def text(length=None):
    """Return a string type that PostgreSQL compares and sorts by bytes, as SQLite always does."""
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def number(name):
    return sa.Column(name, sa.Double, nullable=False)


def upgrade():
    op.create_table(
        "lease",
        sa.Column("name", text(), primary_key=True),
        sa.Column("holder", text(32), nullable=False),
        number("expires_at"),
    )
    op.create_table(
        "attempts",
        sa.Column("key", text(64), primary_key=True),
        number("level"),
        number("at"),
        number("expires_at"),
    )
    op.create_index("ix_attempts_expires_at", "attempts", ["expires_at"])


def downgrade():
    for table in ("attempts", "lease"):
        op.drop_table(table)
