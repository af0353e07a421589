"""Documents of accounts and of the records that belong to them. The first field of a model is stored as
`_id`, the others by their names."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, ClassVar, TypeVar

from mongoengine import BooleanField, DateTimeField, Document, FloatField, ListField, LongField, StringField

from app.accounts import models
from app.database.gridfs.documents import RawDocument, index

M = TypeVar("M", bound=models.Record)

SESSIONS_VERSION, WAS_PROMOTED = "era", "heir"
"""Stored names of fields."""


def _meta(collection: str, *indexes: dict[str, Any]) -> dict[str, Any]:
    return {
        "collection": collection,
        "strict": False,  # newer versions may store further fields
        "auto_create_index": False,  # connection.py creates them
        "indexes": [*indexes],
    }


def _unique(*names: str) -> dict[str, Any]:
    return index(*names) | {"unique": True}


def _where(spec: dict[str, Any], condition: RawDocument) -> dict[str, Any]:
    return spec | {"partialFilterExpression": condition}


class AccountDocument(Document):  # type: ignore[misc]
    """A person or program with a library."""

    meta: ClassVar[dict[str, Any]] = _meta(
        "accounts",
        _unique("email"),
        # Of accounts that race to be first, one gets the shared library, and is the administrator.
        _unique("library"),
        # One account uses an invite, even if the invite's own document survives a crash.
        _unique("invite") | {"sparse": True},
        _where(index("is_admin"), {"is_admin": True}),
        _where(index("leaving"), {"leaving": True}),
        # Of accounts that race to succeed an administrator that left, one wins.
        _unique("was_promoted") | {"sparse": True},
    )

    id = StringField(primary_key=True)
    email = StringField(required=True)
    password = StringField(required=True)
    version = LongField(required=True)
    library = StringField(required=True)
    is_admin = BooleanField(required=True)
    disabled = BooleanField(required=True)
    leaving = BooleanField(required=True)
    quota = LongField(null=True)
    created_at = DateTimeField(required=True)
    keep_library = StringField(null=True)
    keep_folder = StringField(null=True)
    # Sessions with another version are invalid, so that one write ends all sessions.
    sessions_version = LongField(db_field=SESSIONS_VERSION, required=True)
    invite = StringField()
    # Promoted because no other administrator remained; unset when the account leaves or is demoted.
    was_promoted = BooleanField(db_field=WAS_PROMOTED)


class SessionDocument(Document):  # type: ignore[misc]
    """A login of one browser."""

    meta: ClassVar[dict[str, Any]] = _meta(
        "sessions", index("account_id", "created_at"), index("seen_at"), index("created_at")
    )

    hash = StringField(primary_key=True)
    account_id = StringField(required=True)
    created_at = DateTimeField(required=True)
    seen_at = DateTimeField(required=True)
    sessions_version = LongField(db_field=SESSIONS_VERSION, required=True)


class TokenDocument(Document):  # type: ignore[misc]
    """An access token for a program."""

    meta: ClassVar[dict[str, Any]] = _meta("tokens", _unique("hash"), index("account_id", "created_at"))

    id = StringField(primary_key=True)
    account_id = StringField(required=True)
    name = StringField(required=True)
    hash = StringField(required=True)
    scopes = ListField(StringField())
    created_at = DateTimeField(required=True)


class LinkDocument(Document):  # type: ignore[misc]
    """A capability URL of one file, or of a folder's playlist and its files."""

    meta: ClassVar[dict[str, Any]] = _meta(
        "links",
        index("account_id", "created_at"),
        index("expires_at"),
        _where(index("account_id", "path", "recursive", "expires_at"), {"automatic": True}),
    )

    id = StringField(primary_key=True)
    account_id = StringField(required=True)
    path = StringField(required=True)
    is_playlist = BooleanField(required=True)
    recursive = BooleanField(required=True)
    automatic = BooleanField(required=True)
    created_at = DateTimeField(required=True)
    expires_at = DateTimeField(required=True)


class InviteDocument(Document):  # type: ignore[misc]
    """The right of one person to sign up."""

    meta: ClassVar[dict[str, Any]] = _meta("invites", index("expires_at"))

    hash = StringField(primary_key=True)
    created_at = DateTimeField(required=True)
    expires_at = DateTimeField(required=True)


class SigningKeyDocument(Document):  # type: ignore[misc]
    """A key that links are signed with."""

    meta: ClassVar[dict[str, Any]] = _meta("signing_keys", _unique("number"))

    id = StringField(primary_key=True)
    # Higher is newer; unique, so that concurrent calls get different numbers.
    number = LongField(required=True)
    secret = StringField(required=True)
    created_at = DateTimeField(required=True)


class LoginLimitDocument(Document):  # type: ignore[misc]
    """The level of a bucket of login attempts at some time, or the note of a successful login."""

    meta: ClassVar[dict[str, Any]] = _meta("attempts", index("expires_at") | {"expireAfterSeconds": 0})

    key = StringField(primary_key=True)
    level = FloatField(required=True)
    at = DateTimeField(required=True)
    expires_at = DateTimeField(required=True)
    # An id of the last change; the next change is conditional on it.
    change = StringField(required=True)


def to_document(kind: type[Document], model: models.Record, **more: object) -> RawDocument:
    """Return the document of this kind that stores a model and further fields."""
    values = {field.name: getattr(model, field.name) for field in fields(model)} | more
    if isinstance(model, models.Token):
        values["scopes"] = sorted(scope.value for scope in model.scopes)
    document = kind(**values)
    document.validate()
    return dict(document.to_mongo())


def from_document(kind: type[M], document: Mapping[str, Any]) -> M:
    """Return the model that a document stores."""
    names = [field.name for field in fields(kind)]
    values: dict[str, Any] = {name: document.get(name) for name in names} | {names[0]: document["_id"]}
    if kind is models.Token:
        values["scopes"] = frozenset(map(models.Scope, document["scopes"]))
    return kind(**values)
