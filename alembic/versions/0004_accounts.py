"""Create accounts, sessions, tokens, links, invites and signing keys."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def text(length=None):
    """Return a string type that PostgreSQL compares and sorts by bytes, as SQLite always does."""
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def time(name):
    return sa.Column(name, sa.DateTime(timezone=True), nullable=False)


def flag(name):
    return sa.Column(name, sa.Boolean, nullable=False)


def upgrade():
    op.create_table(
        "account",
        sa.Column("id", text(32), primary_key=True),
        sa.Column("email", text(320), nullable=False),
        sa.Column("password", text(255), nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("library", text(255), nullable=False),
        flag("is_admin"),
        flag("disabled"),
        flag("leaving"),
        sa.Column("quota", sa.BigInteger),
        time("created_at"),
    )
    op.create_index("uq_account_email", "account", ["email"], unique=True)
    op.create_index("uq_account_library", "account", ["library"], unique=True)
    create_partial_index("ix_account_administrator", "account", "is_admin", ["id"])
    create_partial_index("ix_account_leaving", "account", "leaving", ["id"])
    op.create_table(
        "session",
        sa.Column("hash", text(64), primary_key=True),
        sa.Column("account_id", text(32), nullable=False),
        time("created_at"),
        time("seen_at"),
    )
    op.create_index("ix_session_account", "session", ["account_id", "created_at"])
    op.create_index("ix_session_seen_at", "session", ["seen_at"])
    op.create_index("ix_session_created_at", "session", ["created_at"])
    op.create_table(
        "token",
        sa.Column("id", text(64), primary_key=True),
        sa.Column("account_id", text(32), nullable=False),
        sa.Column("name", text(), nullable=False),
        sa.Column("hash", text(64), nullable=False),
        sa.Column("scopes", text(255), nullable=False),
        time("created_at"),
    )
    op.create_index("uq_token_hash", "token", ["hash"], unique=True)
    op.create_index("ix_token_account", "token", ["account_id", "created_at"])
    op.create_table(
        "link",
        sa.Column("id", text(64), primary_key=True),
        sa.Column("account_id", text(32), nullable=False),
        sa.Column("path", text(), nullable=False),
        flag("is_playlist"),
        flag("recursive"),
        flag("automatic"),
        time("created_at"),
        time("expires_at"),
    )
    op.create_index("ix_link_account", "link", ["account_id", "created_at"])
    op.create_index("ix_link_expires_at", "link", ["expires_at"])
    automatic = ["account_id", "path", "recursive", "expires_at"]
    create_partial_index("ix_link_automatic", "link", "automatic", automatic)
    op.create_table(
        "invite", sa.Column("hash", text(64), primary_key=True), time("created_at"), time("expires_at")
    )
    op.create_index("ix_invite_expires_at", "invite", ["expires_at"])
    op.create_table(
        "signing_key",
        sa.Column("id", text(64), primary_key=True),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.Column("secret", text(255), nullable=False),
        time("created_at"),
    )
    op.create_index("uq_signing_key_number", "signing_key", ["number"], unique=True)


def create_partial_index(name, table, where, columns):
    op.create_index(name, table, columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where))


def downgrade():
    for table in ("signing_key", "invite", "link", "token", "session", "account"):
        op.drop_table(table)
