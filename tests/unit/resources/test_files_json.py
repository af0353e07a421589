"""The JSON of files, which is written out, equals that of the model that documents it."""

import json
from datetime import UTC, datetime
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.resources.files import StoredFile, files_json
from app.storage.types import SHARED, FileFields, FileInfo, Key

BASE = "http://127.0.0.1:8000"
NAMES = [
    "film.mp4",
    "Big Buck Bunny (2008).mp4",
    "100%.mp4",
    "a%20b.mp4",
    "#1?.mp4",
    "a&b;c=d+e@f:g,h!i$j*k~l.mp4",
    "\"quoted\" and 'quoted'.mp4",
    "<script>.mp4",
    "é.mp4",
    "e\u0301\u0323.mp4",  # stays decomposed in a database that other programs write
    "Фильм №1.mp4",
    "映画.mp4",
    "\u202eright to left\u202c עברית.mp4",
    "👩‍👩‍👧 🎬.mp4",
    "\u2028line\u2029.mp4",
    "\ufeff\u200b.mp4",
    "x" * 255,
    "é" * 127,
]
TIMES = [datetime(2026, 12, 1, 9, 5, 7, microsecond, UTC) for microsecond in (0, 1, 120_000, 999_999)]


def fields(filename: str, folder: str = "", **others: object) -> FileFields:
    values = {
        "id": "0123456789abcdef0123456789abcdef",
        "size": 0,
        "content_type": "video/mp4",
        "etag": "5d41402abc4b2a76b9719d911017c592",
        "sha256": None,
        "created_at": "2026-12-01T12:00:00Z",
        "updated_at": "2026-12-01T12:00:00.000001Z",
    }
    return FileFields(folder=folder, filename=filename, **(values | others))  # type: ignore[arg-type]


def model_of(file: FileFields, base_url: str, owner: str | None) -> StoredFile:
    path = f"{file.folder}/{file.filename}" if file.folder else file.filename
    return StoredFile(
        id=file.id,
        path=path,
        folder=file.folder,
        filename=file.filename,
        size=file.size,
        mimetype=file.content_type,
        etag=file.etag,
        sha256=file.sha256,
        created_at=datetime.fromisoformat(file.created_at),
        updated_at=datetime.fromisoformat(file.updated_at),
        url=f"{base_url}/files/{quote(path)}",
        stream_url=f"{base_url}/stream/{file.id}",
        owner=owner,
    )


def check(files: list[FileFields], base_url: str = BASE, owner: str | None = None) -> None:
    """Compare the bytes: the order of the members and the escapes are those of the model, too."""
    models = (model_of(file, base_url, owner).model_dump_json() for file in files)
    assert files_json(files, base_url, owner).decode() == ",".join(models)


@pytest.mark.parametrize("filename", NAMES)
def test_json_of_name_equals_model(filename: str) -> None:
    check([fields(filename, folder) for folder in ("", "a", "a", filename[:60], "a/b c/é", "")])


@pytest.mark.parametrize("owner", [None, "a" * 32, 'ö"\\'])
def test_json_has_owner_with_accounts_only(owner: str | None) -> None:
    check([fields("film.mp4"), fields("film.mp4", "a")], owner=owner)


@pytest.mark.parametrize(
    "base_url", ["https://example.org/films", "http://[::1]:8000", 'http://"\\é', "http://a/100%s%%"]
)
def test_json_has_base_url_in_every_address(base_url: str) -> None:
    check([fields("film é.mp4"), fields("film.mp4", "a")], base_url)


@pytest.mark.parametrize(
    "others",
    [
        {"sha256": "ab" * 32},
        {"size": 2**63 - 1},
        {"content_type": 'text/plain; charset="utf-8"'},
        {"id": '"\\', "etag": '"\\', "sha256": '"\\'},  # documents that other programs wrote
    ],
)
def test_json_of_every_field_equals_model(others: dict[str, object]) -> None:
    check([fields("film.mp4", **others)])


@pytest.mark.parametrize("time", TIMES)
def test_json_of_time_equals_model(time: datetime) -> None:
    info = FileInfo("1", Key(SHARED, "a", "film.mp4"), 1, "video/mp4", "x", None, time, time)
    check([FileFields.of(info)])


def test_json_has_every_member_of_the_model() -> None:
    (file,) = json.loads(b"[" + files_json([fields("film.mp4")], BASE, "owner") + b"]")
    assert list(file) == list(StoredFile.model_fields)


def test_no_files_are_empty_text() -> None:
    check([])


@given(st.lists(st.tuples(st.text(), st.text()), max_size=5))
def test_json_of_any_text_equals_model(names: list[tuple[str, str]]) -> None:
    """Control characters as well: versions before the check of names stored them."""
    check([fields(filename, folder) for folder, filename in names])
