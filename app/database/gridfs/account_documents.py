"""Accounts, and what belongs to them, as documents; their fields are named like those of the models.

Only the first field of a model has another name here: it is what the document is known by.
"""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, ClassVar, TypeVar

from mongoengine import BooleanField, DateTimeField, Document, FloatField, ListField, LongField, StringField

from app.accounts import models
from app.database.gridfs.documents import RawDocument, index

M = TypeVar("M")


def _meta(collection: str, *indexes: dict[str, Any]) -> dict[str, Any]:
    return {
        "collection": collection,
        "strict": False,  # newer versions may note more than we know of
        "auto_create_index": False,  # see users.py
        "indexes": [*indexes],
    }


def _unique(*names: str) -> dict[str, Any]:
    return index(*names) | {"unique": True}


def _where(spec: dict[str, Any], condition: RawDocument) -> dict[str, Any]:
    return spec | {"partialFilterExpression": condition}


class Account(Document):  # type: ignore[misc]
    """A person, or whoever else has a library here."""

    meta: ClassVar[dict[str, Any]] = _meta(
        "accounts",
        _unique("email"),
        # Of those that race to be the first, one has the shared library, and is the administrator.
        _unique("library"),
        # An invite is used by one account, whatever becomes of its own document.
        _unique("invite") | {"sparse": True},
        _where(index("is_admin"), {"is_admin": True}),
        _where(index("leaving"), {"leaving": True}),
        # Of those that race to succeed an administrator that left, one does.
        _unique("heir") | {"sparse": True},
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
    # Sessions count that have the same: to end them all is one write.
    era = LongField(required=True)
    invite = StringField()
    # It became an administrator because no other one stayed; absent when it leaves or is demoted.
    heir = BooleanField()


class Session(Document):  # type: ignore[misc]
    """One browser, from its login on."""

    meta: ClassVar[dict[str, Any]] = _meta(
        "sessions", index("account_id", "created_at"), index("seen_at"), index("created_at")
    )

    hash = StringField(primary_key=True)
    account_id = StringField(required=True)
    created_at = DateTimeField(required=True)
    seen_at = DateTimeField(required=True)
    era = LongField(required=True)


class Token(Document):  # type: ignore[misc]
    """What a person made for a program."""

    meta: ClassVar[dict[str, Any]] = _meta("tokens", _unique("hash"), index("account_id", "created_at"))

    id = StringField(primary_key=True)
    account_id = StringField(required=True)
    name = StringField(required=True)
    hash = StringField(required=True)
    scopes = ListField(StringField())
    created_at = DateTimeField(required=True)


class Link(Document):  # type: ignore[misc]
    """What opens one file, or the playlist of one folder and the files in it."""

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


class Invite(Document):  # type: ignore[misc]
    """What lets one person sign up."""

    meta: ClassVar[dict[str, Any]] = _meta("invites", index("expires_at"))

    hash = StringField(primary_key=True)
    created_at = DateTimeField(required=True)
    expires_at = DateTimeField(required=True)


class SigningKey(Document):  # type: ignore[misc]
    """What links are signed with."""

    meta: ClassVar[dict[str, Any]] = _meta("signing_keys", _unique("number"))

    id = StringField(primary_key=True)
    # Which is newer; of several that are made at once, each has its own.
    number = LongField(required=True)
    secret = StringField(required=True)
    created_at = DateTimeField(required=True)


class LoginLimit(Document):  # type: ignore[misc]
    """How full a bucket of attempts was, and when; or that somebody was right."""

    meta: ClassVar[dict[str, Any]] = _meta("attempts", index("expires_at") | {"expireAfterSeconds": 0})

    key = StringField(primary_key=True)
    level = FloatField(required=True)
    at = DateTimeField(required=True)
    expires_at = DateTimeField(required=True)
    # Which was the last, so that none is made on what is no longer true.
    change = StringField(required=True)


def stored(kind: type[Document], model: Any, **more: object) -> RawDocument:
    """What is stored of one of the models, in a document of this kind."""
    values = {field.name: getattr(model, field.name) for field in fields(model)} | more
    if isinstance(model, models.Token):
        values["scopes"] = sorted(scope.value for scope in model.scopes)
    document = kind(**values)
    document.validate()
    return dict(document.to_mongo())


def model(kind: type[M], found: Mapping[str, Any]) -> M:
    """One of the models, from what is stored."""
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    values = {name: found.get(name) for name in names} | {names[0]: found["_id"]}
    if kind is models.Token:
        values["scopes"] = frozenset(map(models.Scope, found["scopes"]))
    return kind(**values)
