"""What the files of an account may have together, however they come."""

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.http.accounts.conftest import AccountServer, User
from tests.support import each_backend, noise

QUOTA = 1_000_000
CheckProblem = Callable[[httpx.Response, int], str]


@pytest.fixture
def limited(account_server: AccountServer) -> User:
    """With a quota of QUOTA."""
    return account_server.new_user(quota=QUOTA)


def used(user: User) -> int:
    account = user.request("GET", "/account").json()
    assert account["quota"] == QUOTA
    return int(account["used"])


def put(user: User, path: str, size: int) -> int:
    return user.request("PUT", f"/files/{path}", content=noise(size)).status_code


def chunked(size: int) -> Iterator[bytes]:
    """A body whose length nobody says."""
    for start in range(0, size, 50_000):
        yield noise(min(50_000, size - start))


@each_backend
def test_what_does_not_fit_is_refused_and_what_fits_to_the_byte_is_not(
    limited: User, check_problem: CheckProblem, no_server_errors: None
) -> None:
    response = limited.request("PUT", "/files/film.mp4", content=noise(QUOTA + 1))
    assert "1,000,000 bytes" in check_problem(response, 507)
    assert (limited.paths(), used(limited)) == ([], 0)
    assert put(limited, "film.mp4", QUOTA) == 201
    assert used(limited) == QUOTA
    assert put(limited, "b.mp4", 1) == 507
    assert put(limited, "empty.mp4", 0) == 201
    assert limited.request("DELETE", "/files/film.mp4").status_code == 204
    assert put(limited, "b.mp4", 1) == 201


def test_it_is_refused_before_the_body_is_sent(limited: User, connect: Callable[..., Any]) -> None:
    connection = connect()
    cookie = limited.cookie
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


def test_without_a_length_it_is_refused_in_mid_body(limited: User, connect: Callable[..., Any]) -> None:
    connection = connect()
    connection.request("PUT", "/files/film.mp4", limited.cookie, "Transfer-Encoding: chunked")
    sent = 0
    for data in chunked(QUOTA + 200_000):
        connection.send(b"%x\r\n%s\r\n" % (len(data), data))
        sent += len(data)
        if sent > QUOTA:
            break
    assert connection.receive_response().status_code == 507  # though the body has no end
    assert (limited.paths(), used(limited)) == ([], 0)
    assert limited.request("PUT", "/files/film.mp4", content=chunked(QUOTA)).status_code == 201


def test_bytes_that_are_replaced_make_room(limited: User) -> None:
    assert put(limited, "a.mp4", 600_000) == 201
    assert put(limited, "b.mp4", 400_000) == 201
    assert put(limited, "a.mp4", 600_001) == 507
    assert limited.request("HEAD", "/files/a.mp4").headers["content-length"] == "600000"
    assert put(limited, "a.mp4", 600_000) == 204
    assert limited.request("PUT", "/files/a.mp4", content=chunked(600_000)).status_code == 204
    assert put(limited, "a.mp4", 100_000) == 204
    assert put(limited, "b.mp4", 900_000) == 204
    assert used(limited) == QUOTA


def test_forms_count_too(limited: User, check_problem: CheckProblem) -> None:
    def upload(name: str, size: int) -> httpx.Response:
        return limited.request("POST", "/file/upload", files={"file": (name, noise(size))})

    assert upload("a.mp4", 999_999).status_code == 201
    check_problem(upload("b.mp4", 2), 507)
    check_problem(upload("b.mp4", 3_000_000), 507)
    assert upload("c.mp4", 1).status_code == 201
    assert used(limited) == QUOTA
    assert limited.paths() == ["a.mp4", "c.mp4"]


@each_backend
def test_ten_that_race_never_have_more_together(account_server: AccountServer, limited: User) -> None:
    """Whether their length is known or not, and as forms."""
    with ThreadPoolExecutor(10) as pool:

        def race(number: int) -> int:
            with account_server.server.client(headers=limited.headers) as http:
                if number % 3 == 2:
                    form = {"file": (f"{number}.mp4", noise(300_000))}
                    return http.post("/file/upload", files=form).status_code
                content = chunked(300_000) if number % 3 else noise(300_000)
                return http.put(f"/files/{number}.mp4", content=content).status_code

        statuses = Counter(pool.map(race, range(10)))
    assert set(statuses) <= {201, 507}
    assert 1 <= statuses[201] <= 3
    assert used(limited) == statuses[201] * 300_000
    assert put(limited, "last.mp4", QUOTA - used(limited)) == 201, "what was refused has left nothing"


def test_moving_costs_nothing_and_a_quota_of_one_is_nobody_elses(limited: User, user: User) -> None:
    assert put(limited, "film.mp4", QUOTA) == 201
    moved = limited.request(
        "PATCH",
        "/files/film.mp4",
        content=b'{"folder": "films"}',
        headers={"content-type": "application/merge-patch+json"},
    )
    assert moved.status_code == 200
    assert user.request("PUT", "/files/film.mp4", content=noise(QUOTA + 1)).status_code == 201
    assert user.request("GET", "/account").json()["quota"] is None


def test_no_quota_at_all_takes_empty_files(account_server: AccountServer) -> None:
    nothing = account_server.new_user(quota=0)
    assert nothing.request("PUT", "/files/a.mp4", content=b"x").status_code == 507
    assert nothing.request("PUT", "/files/a.mp4", content=b"").status_code == 201
