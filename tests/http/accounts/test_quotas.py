"""Quotas: the limit on the total size of an account's files, for every kind of upload."""

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.http.accounts.conftest import AccountServer, User
from tests.support import each_backend, noise, on_disk_and_gridfs

QUOTA = 1_000_000
CheckProblem = Callable[[httpx.Response, int], str]


@pytest.fixture
def limited_user(account_server: AccountServer) -> User:
    """A user with a quota of QUOTA bytes."""
    return account_server.new_user(quota=QUOTA)


def used_bytes(user: User) -> int:
    account = user.request("GET", "/account").json()
    assert account["quota"] == QUOTA
    return int(account["used"])


def put(user: User, path: str, size: int) -> int:
    return user.request("PUT", f"/files/{path}", content=noise(size)).status_code


def chunked_body(size: int) -> Iterator[bytes]:
    """Yield a body of unknown length."""
    for start in range(0, size, 50_000):
        yield noise(min(50_000, size - start))


@on_disk_and_gridfs
def test_quota_is_exact_to_the_byte(
    limited_user: User, check_problem: CheckProblem, no_server_errors: None
) -> None:
    response = limited_user.request("PUT", "/files/film.mp4", content=noise(QUOTA + 1))
    assert "1,000,000 bytes" in check_problem(response, 507)
    assert (limited_user.paths(), used_bytes(limited_user)) == ([], 0)
    assert put(limited_user, "film.mp4", QUOTA) == 201
    assert used_bytes(limited_user) == QUOTA
    assert put(limited_user, "b.mp4", 1) == 507
    assert put(limited_user, "empty.mp4", 0) == 201
    assert limited_user.request("DELETE", "/files/film.mp4").status_code == 204
    assert put(limited_user, "b.mp4", 1) == 201


def test_upload_over_quota_is_refused_before_its_body(
    limited_user: User, connect: Callable[..., Any]
) -> None:
    connection = connect()
    cookie = limited_user.cookie
    for method, target, more in (
        ("PUT", "/files/film.mp4", ()),
        ("POST", "/file/upload", ("Content-Type: multipart/form-data; boundary=x",)),
    ):
        connection.request(
            method, target, cookie, f"Content-Length: {QUOTA * 10}", "Expect: 100-continue", *more
        )
        response = connection.receive_response()
        assert (response.status_code, response.extensions["interim"]) == (507, [])
        connection = connect()


def test_chunked_upload_over_quota_is_refused_in_mid_body(
    limited_user: User, connect: Callable[..., Any]
) -> None:
    connection = connect()
    connection.request("PUT", "/files/film.mp4", limited_user.cookie, "Transfer-Encoding: chunked")
    sent = 0
    for data in chunked_body(QUOTA + 200_000):
        connection.send(b"%x\r\n%s\r\n" % (len(data), data))
        sent += len(data)
        if sent > QUOTA:
            break
    assert connection.receive_response().status_code == 507  # although the body has not ended
    assert (limited_user.paths(), used_bytes(limited_user)) == ([], 0)
    assert limited_user.request("PUT", "/files/film.mp4", content=chunked_body(QUOTA)).status_code == 201


def test_replaced_bytes_do_not_count(limited_user: User) -> None:
    assert put(limited_user, "a.mp4", 600_000) == 201
    assert put(limited_user, "b.mp4", 400_000) == 201
    assert put(limited_user, "a.mp4", 600_001) == 507
    assert limited_user.request("HEAD", "/files/a.mp4").headers["content-length"] == "600000"
    assert put(limited_user, "a.mp4", 600_000) == 204
    assert limited_user.request("PUT", "/files/a.mp4", content=chunked_body(600_000)).status_code == 204
    assert put(limited_user, "a.mp4", 100_000) == 204
    assert put(limited_user, "b.mp4", 900_000) == 204
    assert used_bytes(limited_user) == QUOTA


def test_form_uploads_count(limited_user: User, check_problem: CheckProblem) -> None:
    def upload(name: str, size: int) -> httpx.Response:
        return limited_user.request("POST", "/file/upload", files={"file": (name, noise(size))})

    assert upload("a.mp4", 999_999).status_code == 201
    check_problem(upload("b.mp4", 2), 507)
    check_problem(upload("b.mp4", 3_000_000), 507)
    assert upload("c.mp4", 1).status_code == 201
    assert used_bytes(limited_user) == QUOTA
    assert limited_user.paths() == ["a.mp4", "c.mp4"]


@each_backend
def test_ten_concurrent_uploads_never_exceed_quota(account_server: AccountServer, limited_user: User) -> None:
    """With and without a known length, and as forms."""
    with ThreadPoolExecutor(10) as pool:

        def race(number: int) -> int:
            with account_server.server.client(headers=limited_user.headers) as http:
                if number % 3 == 2:
                    form = {"file": (f"{number}.mp4", noise(300_000))}
                    return http.post("/file/upload", files=form).status_code
                content = chunked_body(300_000) if number % 3 else noise(300_000)
                return http.put(f"/files/{number}.mp4", content=content).status_code

        statuses = Counter(pool.map(race, range(10)))
    assert set(statuses) <= {201, 507}
    assert 1 <= statuses[201] <= 3
    assert used_bytes(limited_user) == statuses[201] * 300_000
    assert put(limited_user, "last.mp4", QUOTA - used_bytes(limited_user)) == 201, (
        "refused uploads leave nothing"
    )


def test_move_is_free_and_quota_applies_to_one_account(limited_user: User, user: User) -> None:
    assert put(limited_user, "film.mp4", QUOTA) == 201
    moved = limited_user.request(
        "PATCH",
        "/files/film.mp4",
        content=b'{"folder": "films"}',
        headers={"content-type": "application/merge-patch+json"},
    )
    assert moved.status_code == 200
    assert user.request("PUT", "/files/film.mp4", content=noise(QUOTA + 1)).status_code == 201
    assert user.request("GET", "/account").json()["quota"] is None


def test_quota_of_zero_allows_empty_files(account_server: AccountServer) -> None:
    nothing = account_server.new_user(quota=0)
    assert nothing.request("PUT", "/files/a.mp4", content=b"x").status_code == 507
    assert nothing.request("PUT", "/files/a.mp4", content=b"").status_code == 201
