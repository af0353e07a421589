"""Opening a MongoDB: refusals with a reason, schema versions and migration."""

import re
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from pymongo.collection import Collection

from app.database import prepare_database
from app.database.gridfs.connection import MongoDatabase
from app.database.gridfs.documents import UNJUDGED, UNJUDGED_INDEX
from app.database.gridfs.opening import VERSION, migration, open_gridfs
from app.database.open_library import NEWER_SCHEMA
from app.settings import ConfigurationError, Settings
from app.storage.errors import StorageUnavailable
from tests.support import mongo


def refusal(url: str) -> str:
    settings = Settings(_env_file=None, storage="gridfs", mongodb_url=url)
    began = time.monotonic()
    with ExitStack() as stack, pytest.raises((ConfigurationError, StorageUnavailable)) as refused:
        open_gridfs(settings, stack)
    assert time.monotonic() - began < 5
    message = str(refused.value)
    assert "\n" not in message
    assert "secret" not in message
    return message


REASONS = {
    "mongodb://me:secret@127.0.0.1:{closed}/films": "Connection refused",
    "mongodb://127.0.0.1:{open}/films?replicaSet=another": '"another"',
    "mongodb://127.0.0.1:{open}/films?tls=true": "SSL",
    "mongodb://127.0.0.1:{open}/films?tls=true&tlsCAFile=/no/file": "No such file",
    "mongodb://me:secret@127.0.0.1:{open}/films": "Authentication failed",
    "mongodb://me:27/secret@127.0.0.1:{open}/films": "Write / in the name and the password",
    "mongodb://me:27/secret@localhost:{open}/films": "Write / in the name and the password",
}


def test_open_error_names_reason() -> None:
    """All connections run at the same time: some of them retry for seconds."""
    port, closed = mongo.shared().port, mongo.free_port()
    urls = [url.format(open=port, closed=closed) for url in REASONS]
    with ThreadPoolExecutor(len(urls)) as pool:
        for message, reason in zip(pool.map(refusal, urls), REASONS.values(), strict=True):
            assert reason in message
            assert ".." not in message


@pytest.mark.parametrize(
    ("found", "supported", "expected"),
    [
        (None, 1, "due"),
        ({"version": 1}, 2, "due"),
        ({"version": 2}, 2, "done"),
        ({"version": 2.0}, 2, "done"),
        ({"version": 3}, 2, "newer"),
        ({"version": "2.1"}, 2, "newer"),
        ({}, 2, "newer"),
    ],
)
def test_migration_compares_schema_versions(
    found: dict[str, object] | None, supported: int, expected: str
) -> None:
    assert migration(found, supported) == expected


def test_version_2_refuses_databases_of_current_version() -> None:
    """Version 2 would delete the files of a deleted account that are to be kept."""
    assert migration({"version": VERSION}, 2) == "newer"


def test_library_of_version_before_encodings_opens() -> None:
    chosen = mongo.gridfs()
    settings, database = Settings(_env_file=None, **chosen), mongo.database(str(chosen["mongodb_url"]))
    kinds = {"a.mkv": "video/matroska", "a.ogg": "application/ogg", "a.ts": "text/plain"}
    database["media"].insert_many(
        {"_id": name, "library": "", "folder": "", "filename": name, "file": name, "content_type": kind}
        for name, kind in kinds.items()
    )
    prepare_database(settings)
    found = {media["_id"]: media["content_type"] for media in database["media"].find()}
    assert found == {"a.mkv": "video/x-matroska", "a.ogg": "audio/ogg", "a.ts": "text/plain"}
    waiting = database["media"].find(UNJUDGED | {"_id": {"$gt": ""}}, hint=UNJUDGED_INDEX).sort("_id", 1)
    assert [media["_id"] for media in waiting] == ["a.ts"]
    stages = str(waiting.explain()["queryPlanner"]["winningPlan"])
    assert "IXSCAN" in stages
    assert "SORT" not in stages


@pytest.mark.parametrize("newer", ["files", "accounts"])
def test_database_of_newer_version_is_refused_and_unchanged(newer: str) -> None:
    chosen = mongo.gridfs()
    users_url = mongo.gridfs()["mongodb_url"]
    settings = Settings(_env_file=None, access="accounts", users_url=users_url, **chosen)
    files, users = mongo.database(str(chosen["mongodb_url"])), mongo.database(str(users_url))
    databases = {"files": files["media.schema"], "accounts": users["schema"]}
    for without_version in (False, True):
        prepare_database(settings)
        assert [versions(schema) for schema in databases.values()] == [[VERSION], [VERSION]]
        if not without_version:
            for schema in databases.values():
                schema.drop()
    databases[newer].update_one({}, {"$set": {"version": VERSION + 1}})
    indexed = files["media"] if newer == "files" else users["accounts"]
    indexed.drop_indexes()
    with pytest.raises(StorageUnavailable, match=rf"^MongoDB at .+: {re.escape(NEWER_SCHEMA)}$"):
        prepare_database(settings)
    assert len(list(indexed.list_indexes())) == 1
    assert versions(databases[newer]) == [VERSION + 1]


def versions(schema: Collection[Any]) -> list[int]:
    return [document["version"] for document in schema.find()]


def test_documentation_names_each_collection() -> None:
    chosen = mongo.gridfs()
    database = MongoDatabase(str(chosen["mongodb_url"]))
    collections = [one.name for one in vars(database).values() if isinstance(one, Collection)]
    database.close()
    documentation = (Path(__file__).parents[4] / "docs" / "backends.md").read_text()
    supported = {name for name in collections if not name.startswith("fs.")}
    assert supported >= {"media", "media.schema"}
    assert [name for name in supported if f"`{name}`" not in documentation] == []
