"""A token for writing alone changes files, and learns nothing of what is stored."""

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from app.accounts.models import Scope
from tests.http.accounts.conftest import Person, Private, bearer
from tests.http.conftest import BOUNDARY, Connection

Problem = Callable[[httpx.Response, int], str]
Ask = Callable[..., httpx.Response]

PATCH = {"content-type": "application/merge-patch+json"}


@pytest.fixture
def ask(private: Private, person: Person) -> Ask:
    """A request with a token of the person's that is for writing alone."""
    token = bearer(person.token(Scope.WRITE))

    def ask(method: str, target: str, **options: Any) -> httpx.Response:
        headers = token | options.pop("headers", {})
        return private.ask(method, target, headers=headers, **options)

    return ask


def patch(ask: Ask, path: str, **names: str) -> httpx.Response:
    return ask("PATCH", f"/files/{path}", headers=PATCH, content=json.dumps(names))


def test_answers_hold_path_and_etag_of_what_was_written(ask: Ask, person: Person) -> None:
    made = ask("PUT", "/files/films/a.mp4", content=b"mine")
    form = ask("POST", "/file/upload", data={"folder": "films"}, files={"file": ("b.mp4", b"mine")})
    moved = patch(ask, "films/a.mp4", filename="c.mp4")
    for answer, path in ((made, "films/a.mp4"), (form, "films/b.mp4")):
        assert answer.status_code == 201
        assert answer.json() == {"path": path, "etag": answer.headers["etag"].strip('"')}
        assert "repr-digest" not in answer.headers
        assert answer.headers["location"].endswith(f"/files/{path}")
    # Of a file that another has sent, the ETag would be the digest.
    assert (moved.status_code, moved.json()) == (200, {"path": "films/c.mp4"})
    assert "etag" not in moved.headers
    replaced = ask("PUT", "/files/films/b.mp4", content=b"another")
    assert (replaced.status_code, replaced.content) == (204, b"")
    assert "repr-digest" not in replaced.headers
    assert ask("DELETE", "/files/films/b.mp4").status_code == 204
    assert person.paths() == ["films/c.mp4"]


@pytest.mark.parametrize("condition", ["If-None-Match", "If-Match", "If-Unmodified-Since"])
def test_preconditions_tell_nothing_of_what_is_stored(condition: str, ask: Ask, person: Person) -> None:
    person.put("there.mp4", b"mine")
    values = ["*", '"x"', "Sat, 01 Jan 2000 00:00:00 GMT"]
    for value in values:
        told = set()
        for name in ("there.mp4", "missing.mp4"):
            headers = {condition: value}
            for method, options in (
                ("PUT", {"content": b"new", "headers": headers}),
                ("DELETE", {"headers": headers}),
                ("PATCH", {"content": '{"filename": "new.mp4"}', "headers": {**PATCH, **headers}}),
            ):
                answer = ask(method, f"/files/{name}", **options)
                assert answer.status_code == 403
                assert "insufficient_scope" in answer.headers["www-authenticate"]
                told.add(answer.text)
        assert len(told) == 1
    assert person.content("there.mp4") == b"mine"
    assert person.paths() == ["there.mp4"]


def test_patch_that_changes_nothing_is_refused_whether_the_file_is_there(
    ask: Ask, person: Person, problem: Problem
) -> None:
    person.put("films/there.mp4")
    for name in ("there.mp4", "missing.mp4"):
        for names in ({}, {"filename": name}, {"folder": "films"}):
            problem(patch(ask, f"films/{name}", **names), 403)


def test_move_that_is_impossible_does_not_tell_why(ask: Ask, person: Person, problem: Problem) -> None:
    for path in ("there.mp4", "taken.mp4", "folder/a"):
        person.put(path)
    told = {
        problem(patch(ask, name, filename=target), 404)
        for name, target in (
            ("there.mp4", "taken.mp4"),
            ("there.mp4", "folder"),
            ("missing.mp4", "taken.mp4"),
            ("missing.mp4", "free.mp4"),
        )
    }
    assert len(told) == 1


def test_form_that_never_ends_does_not_tell_whether_its_name_is_taken(
    private: Private, person: Person, connect: Callable[[], Connection], part: Callable[..., bytes]
) -> None:
    """A form of a caller that may read is refused before its bytes are sent."""
    person.put("there.mp4")
    file = part("file", bytes(100_000), filename="there.mp4")
    body = part("folder", b"") + file + f"--{BOUNDARY}--\r\n".encode()
    fields = (f"Content-Type: multipart/form-data; boundary={BOUNDARY}", f"Content-Length: {len(body)}")
    for scopes, hears_early in (((Scope.READ, Scope.WRITE), True), ((Scope.WRITE,), False)):
        connection = connect()
        token = f"Authorization: Bearer {person.token(*scopes)}"
        connection.request("POST", "/file/upload?folder=", token, *fields)
        connection.send(body[:50_000])
        if hears_early:
            assert connection.answer("POST").status_code == 409
            continue
        connection.socket.settimeout(0.3)
        with pytest.raises(TimeoutError):
            connection.answer("POST")
        connection.socket.settimeout(20)
        connection.send(body[50_000:])
        assert connection.answer("POST").status_code == 409


def test_quota_tells_nothing_of_the_size_of_a_file(private: Private, problem: Problem) -> None:
    """Of a replacement too long for the quota it would say so before the body, if it knew the old size."""
    person = private.person(quota=1000)
    person.put("there.mp4", bytes(800))
    token = bearer(person.token(Scope.WRITE))
    for name in ("there.mp4", "missing.mp4"):
        problem(private.ask("PUT", f"/files/{name}", headers=token, content=bytes(1001)), 507)
    problem(private.ask("PUT", "/files/missing.mp4", headers=token, content=bytes(900)), 507)
    assert private.ask("PUT", "/files/there.mp4", headers=token, content=bytes(900)).status_code == 204
