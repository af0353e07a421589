"""A token with only the write scope changes files and reveals nothing about stored ones."""

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from app.accounts.models import Scope
from tests.http.accounts.conftest import AccountServer, User, bearer
from tests.http.conftest import BOUNDARY, RawConnection

CheckProblem = Callable[[httpx.Response, int], str]
SendRequest = Callable[..., httpx.Response]

PATCH = {"content-type": "application/merge-patch+json"}


@pytest.fixture
def send_request(account_server: AccountServer, user: User) -> SendRequest:
    """Return a function that sends requests with a token of the user that has only the write scope."""
    token = bearer(user.new_token(Scope.WRITE))

    def send_request(method: str, target: str, **options: Any) -> httpx.Response:
        headers = token | options.pop("headers", {})
        return account_server.request(method, target, headers=headers, **options)

    return send_request


def patch(send_request: SendRequest, path: str, **names: str) -> httpx.Response:
    return send_request("PATCH", f"/files/{path}", headers=PATCH, content=json.dumps(names))


def test_responses_contain_only_path_and_etag_of_written_file(send_request: SendRequest, user: User) -> None:
    created = send_request("PUT", "/files/films/a.mp4", content=b"mine")
    form = send_request("POST", "/file/upload", data={"folder": "films"}, files={"file": ("b.mp4", b"mine")})
    moved = patch(send_request, "films/a.mp4", filename="c.mp4")
    for response, path in ((created, "films/a.mp4"), (form, "films/b.mp4")):
        assert response.status_code == 201
        assert response.json() == {"path": path, "etag": response.headers["etag"].strip('"')}
        assert "repr-digest" not in response.headers
        assert response.headers["location"].endswith(f"/files/{path}")
    # The ETag of an existing file would reveal its digest.
    assert (moved.status_code, moved.json()) == (200, {"path": "films/c.mp4"})
    assert "etag" not in moved.headers
    replaced = send_request("PUT", "/files/films/b.mp4", content=b"another")
    assert (replaced.status_code, replaced.content) == (204, b"")
    assert "repr-digest" not in replaced.headers
    assert send_request("DELETE", "/files/films/b.mp4").status_code == 204
    assert user.paths() == ["films/c.mp4"]


@pytest.mark.parametrize("condition", ["If-None-Match", "If-Match", "If-Unmodified-Since"])
def test_preconditions_are_refused_for_any_path(
    condition: str, send_request: SendRequest, user: User
) -> None:
    user.put("there.mp4", b"mine")
    values = ["*", '"x"', "Sat, 01 Jan 2000 00:00:00 GMT"]
    for value in values:
        details = set()
        for name in ("there.mp4", "missing.mp4"):
            headers = {condition: value}
            for method, options in (
                ("PUT", {"content": b"new", "headers": headers}),
                ("DELETE", {"headers": headers}),
                ("PATCH", {"content": '{"filename": "new.mp4"}', "headers": {**PATCH, **headers}}),
            ):
                response = send_request(method, f"/files/{name}", **options)
                assert response.status_code == 403
                assert "insufficient_scope" in response.headers["www-authenticate"]
                details.add(response.text)
        assert len(details) == 1
    assert user.content("there.mp4") == b"mine"
    assert user.paths() == ["there.mp4"]


def test_patch_without_change_is_refused_for_any_path(
    send_request: SendRequest, user: User, check_problem: CheckProblem
) -> None:
    user.put("films/there.mp4")
    for name in ("there.mp4", "missing.mp4"):
        for names in ({}, {"filename": name}, {"folder": "films"}):
            check_problem(patch(send_request, f"films/{name}", **names), 403)


def test_refused_move_does_not_reveal_reason(
    send_request: SendRequest, user: User, check_problem: CheckProblem
) -> None:
    for path in ("there.mp4", "taken.mp4", "folder/a"):
        user.put(path)
    details = {
        check_problem(patch(send_request, name, filename=target), 404)
        for name, target in (
            ("there.mp4", "taken.mp4"),
            ("there.mp4", "folder"),
            ("missing.mp4", "taken.mp4"),
            ("missing.mp4", "free.mp4"),
        )
    }
    assert len(details) == 1


def test_unfinished_form_does_not_reveal_whether_name_is_taken(
    account_server: AccountServer,
    user: User,
    connect: Callable[[], RawConnection],
    part: Callable[..., bytes],
) -> None:
    """With the read scope, the form is refused before its last bytes are sent."""
    user.put("there.mp4")
    file = part("file", bytes(100_000), filename="there.mp4")
    body = part("folder", b"") + file + f"--{BOUNDARY}--\r\n".encode()
    fields = (f"Content-Type: multipart/form-data; boundary={BOUNDARY}", f"Content-Length: {len(body)}")
    for scopes, is_refused_early in (((Scope.READ, Scope.WRITE), True), ((Scope.WRITE,), False)):
        connection = connect()
        token = f"Authorization: Bearer {user.new_token(*scopes)}"
        connection.request("POST", "/file/upload?folder=", token, *fields)
        connection.send(body[:50_000])
        if is_refused_early:
            assert connection.receive_response("POST").status_code == 409
            continue
        connection.socket.settimeout(0.3)
        with pytest.raises(TimeoutError):
            connection.receive_response("POST")
        connection.socket.settimeout(20)
        connection.send(body[50_000:])
        assert connection.receive_response("POST").status_code == 409


def test_quota_does_not_reveal_size_of_replaced_file(
    account_server: AccountServer, check_problem: CheckProblem
) -> None:
    """A refusal before the body would depend on the size of the file that it replaces."""
    user = account_server.new_user(quota=1000)
    user.put("there.mp4", bytes(800))
    token = bearer(user.new_token(Scope.WRITE))
    for name in ("there.mp4", "missing.mp4"):
        check_problem(
            account_server.request("PUT", f"/files/{name}", headers=token, content=bytes(1001)), 507
        )
    check_problem(account_server.request("PUT", "/files/missing.mp4", headers=token, content=bytes(900)), 507)
    assert (
        account_server.request("PUT", "/files/there.mp4", headers=token, content=bytes(900)).status_code
        == 204
    )
