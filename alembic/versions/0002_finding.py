"""Add what sorted lists, searches, changes made by hand and background hashing need."""

import unicodedata
from itertools import groupby

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

SORTS = ("size", "created_at", "updated_at")


def text(length=None):
    """Return a string type that PostgreSQL compares and sorts by bytes, as SQLite always does."""
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def upgrade():
    op.add_column("media", sa.Column("disk_path", text()))
    op.add_column("media", sa.Column("unverified", sa.Boolean, nullable=False, server_default=sa.false()))
    op.execute("UPDATE media SET unverified = true WHERE sha256 IS NULL")
    for column in SORTS:
        op.create_index(f"ix_media_folder_{column}", "media", ["library", "folder", column, "filename"])
        op.create_index(f"ix_media_library_{column}", "media", ["library", column, "folder", "filename"])
    op.create_index("ix_media_content_type", "media", ["library", "content_type"])
    op.create_index("ix_media_inode", "media", ["inode", "size", "mtime_ns"])
    create_partial_index("ix_media_unverified", "unverified", ["id"])
    create_partial_index("ix_media_disk_path", "disk_path IS NOT NULL", ["library", "folder"])
    word = op.create_table(
        "word",
        sa.Column("media_id", text(32), sa.ForeignKey("media.id"), primary_key=True),
        sa.Column("word", text(1024), primary_key=True),
        sa.Column("library", text(255), nullable=False),
    )
    op.create_index("ix_word", "word", ["library", "word", "media_id"])
    media = op.get_bind().execute(sa.text("SELECT id, library, filename FROM media"))
    for rows in media.partitions(1000):
        found = [
            {"media_id": identity, "word": one, "library": library}
            for identity, library, filename in rows
            for one in tokenize(filename)
        ]
        if found:
            op.bulk_insert(word, found)
    op.create_table(
        "departed",
        sa.Column("id", text(32), primary_key=True),
        sa.Column("library", text(255), nullable=False),
        sa.Column("filename", text(255), nullable=False),
        sa.Column("content_type", text(255), nullable=False),
        sa.Column("etag", text(64), nullable=False),
        sa.Column("sha256", text(64)),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("mtime_ns", sa.BigInteger, nullable=False),
        sa.Column("inode", sa.BigInteger, nullable=False),
        sa.Column("departed_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_index("ix_departed_inode", "departed", ["inode", "size", "mtime_ns"])
    op.create_index("ix_departed_at", "departed", ["departed_at"])


# A copy of app/storage/search_tokens.py, which later versions may change.
VARIATION_SELECTORS = {*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)}
ZERO_WIDTH_SPACE = "\u200b"


def tokenize(text):
    folded = unicodedata.normalize("NFC", text).casefold()
    visible = unicodedata.normalize("NFC", "".join(filter(is_visible, folded)))
    tokens = []
    for kind, characters in groupby(visible, kind_of):
        if kind == "symbol":
            tokens.extend(characters)
        elif kind == "word":
            tokens.append("".join(characters))
    return tuple(dict.fromkeys(tokens))


def is_visible(character):
    if ord(character) in VARIATION_SELECTORS:
        return False
    return unicodedata.category(character) != "Cf" or character == ZERO_WIDTH_SPACE


def kind_of(character):
    category = unicodedata.category(character)
    if category[0] in "LMN":
        return "word"
    return "symbol" if category == "So" else "space"


def create_partial_index(name, where, columns):
    op.create_index(name, "media", columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where))


def downgrade():
    op.drop_table("departed")
    op.drop_table("word")
    with op.batch_alter_table("media") as media:
        media.drop_index("ix_media_disk_path")
        media.drop_index("ix_media_unverified")
        media.drop_index("ix_media_inode")
        media.drop_index("ix_media_content_type")
        for column in SORTS:
            media.drop_index(f"ix_media_folder_{column}")
            media.drop_index(f"ix_media_library_{column}")
        media.drop_column("unverified")
        media.drop_column("disk_path")
