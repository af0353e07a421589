"""The connection to the MongoDB database of the accounts."""

from mongoengine import Document
from pymongo.collection import Collection

from app.database.mongo.connection import Connection, indexes_of
from app.database.mongo.documents import Stored
from app.database.mongo.user_documents import Account, Attempts, Invite, Link, Session, SigningKey, Token

USERS = "users"
"""What the database is called, if no URL says otherwise."""


class Users(Connection):
    """Each kind of document has a collection."""

    def __init__(self, url: str, *, setting: str, name: str | None = None) -> None:
        super().__init__(url, setting=setting, default=USERS, name=name)
        self.accounts = self._of(Account)
        self.sessions = self._of(Session)
        self.tokens = self._of(Token)
        self.links = self._of(Link)
        self.invites = self._of(Invite)
        self.signing_keys = self._of(SigningKey)
        self.attempts = self._of(Attempts)
        self.announcements = self._database["announcements"]
        self.schema = self._database["schema"]

    def _of(self, kind: type[Document]) -> Collection[Stored]:
        return self._database[kind._meta["collection"]]

    def ensure_indexes(self) -> None:
        """Make those that are missing. What is promised of racing calls rests on the unique ones."""
        for kind in (Account, Session, Token, Link, Invite, SigningKey, Attempts):
            self.ensure(self._of(kind), indexes_of(kind))
