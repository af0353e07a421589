"""Add whether a file is UTF-8, and correct types under which players did not find films."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0011"
branch_labels = None
depends_on = None

UNJUDGED = "is_utf8 IS NULL AND content_type >= 'text/' AND content_type < 'text0'"

# A copy from app/http/media_types.py, which later versions may change. Each type maps extensions to the
# correct type; "" is any extension.
MATROSKA = {"": "video/x-matroska", "mka": "audio/x-matroska"}
OUTDATED_TYPES = {
    "application/matroska": MATROSKA,
    "application/x-matroska": MATROSKA,
    "audio/matroska": {"": "audio/x-matroska"},
    "video/matroska": {"": "video/x-matroska"},
    "video/matroska-3d": {"": "video/x-matroska"},
    "video/mkv": {"": "video/x-matroska"},
    "video/x-mkv": {"": "video/x-matroska"},
    "application/mp4": {"mp4": "video/mp4", "m4v": "video/mp4", "m4a": "audio/mp4", "m4b": "audio/mp4"},
    "application/ogg": {
        **dict.fromkeys(("ogg", "oga", "opus", "spx"), "audio/ogg"),
        **dict.fromkeys(("ogv", "ogm"), "video/ogg"),
    },
    "text/vnd.trolltech.linguist": {"ts": "video/mp2t"},
    "text/vnd.qt.linguist": {"ts": "video/mp2t"},
}


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


def correct_outdated(content_type, filename):
    _, dot, extension = filename.rpartition(".")
    by_extension = OUTDATED_TYPES[content_type]
    return by_extension.get(extension.lower() if dot else "", by_extension.get("", content_type))


def downgrade():
    op.drop_index("ix_media_unjudged", "media")
    for table in ("media", "departed"):
        with op.batch_alter_table(table) as altered:
            altered.drop_column("is_utf8")
