"""What the files of an account may have together, however they come."""

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.http.accounts.conftest import Person, Private
from tests.support import noise

QUOTA = 1_000_000
Problem = Callable[[httpx.Response, int], str]


@pytest.fixture
def limited(private: Private) -> Person:
    """With a quota of QUOTA."""
    return private.person(quota=QUOTA)


def used(person: Person) -> int:
    account = person.ask("GET", "/account").json()
    assert account["quota"] == QUOTA
    return int(account["used"])


def put(person: Person, path: str, size: int) -> int:
    return person.ask("PUT", f"/files/{path}", content=noise(size)).status_code


def chunked(size: int) -> Iterator[bytes]:
    """A body whose length nobody says."""
    for start in range(0, size, 50_000):
        yield noise(min(50_000, size - start))


def test_what_does_not_fit_is_refused_and_what_fits_to_the_byte_is_not(
    limited: Person, problem: Problem, untroubled: None
) -> None:
    answer = limited.ask("PUT", "/files/film.mp4", content=noise(QUOTA + 1))
    assert "1,000,000 bytes" in problem(answer, 507)
    assert (limited.paths(), used(limited)) == ([], 0)
    assert put(limited, "film.mp4", QUOTA) == 201
    assert used(limited) == QUOTA
    assert put(limited, "b.mp4", 1) == 507
    assert put(limited, "empty.mp4", 0) == 201
    assert limited.ask("DELETE", "/files/film.mp4").status_code == 204
    assert put(limited, "b.mp4", 1) == 201


def test_it_is_refused_before_the_body_is_sent(limited: Person, connect: Callable[..., Any]) -> None:
    connection = connect()
    cookie = limited.cookie
    for method, target, more in (
        ("PUT", "/files/film.mp4", ()),
        ("POST", "/file/upload", ("Content-Type: multipart/form-data; boundary=x",)),
    ):
        connection.request(
            method, target, cookie, f"Content-Length: {QUOTA * 10}", "Expect: 100-continue", *more
        )
        answer = connection.answer()
        assert (answer.status_code, answer.extensions["interim"]) == (507, [])
        connection = connect()


def test_without_a_length_it_is_refused_in_mid_body(limited: Person, connect: Callable[..., Any]) -> None:
    connection = connect()
    connection.request("PUT", "/files/film.mp4", limited.cookie, "Transfer-Encoding: chunked")
    sent = 0
    for data in chunked(QUOTA + 200_000):
        connection.send(b"%x\r\n%s\r\n" % (len(data), data))
        sent += len(data)
        if sent > QUOTA:
            break
    assert connection.answer().status_code == 507  # though the body has no end
    assert (limited.paths(), used(limited)) == ([], 0)
    assert limited.ask("PUT", "/files/film.mp4", content=chunked(QUOTA)).status_code == 201


def test_bytes_that_are_replaced_make_room(limited: Person) -> None:
    assert put(limited, "a.mp4", 600_000) == 201
    assert put(limited, "b.mp4", 400_000) == 201
    assert put(limited, "a.mp4", 600_001) == 507
    assert limited.ask("HEAD", "/files/a.mp4").headers["content-length"] == "600000"
    assert put(limited, "a.mp4", 600_000) == 204
    assert limited.ask("PUT", "/files/a.mp4", content=chunked(600_000)).status_code == 204
    assert put(limited, "a.mp4", 100_000) == 204
    assert put(limited, "b.mp4", 900_000) == 204
    assert used(limited) == QUOTA


def test_forms_count_too(limited: Person, problem: Problem) -> None:
    def upload(name: str, size: int) -> httpx.Response:
        return limited.ask("POST", "/file/upload", files={"file": (name, noise(size))})

    assert upload("a.mp4", 999_999).status_code == 201
    problem(upload("b.mp4", 2), 507)
    problem(upload("b.mp4", 3_000_000), 507)
    assert upload("c.mp4", 1).status_code == 201
    assert used(limited) == QUOTA
    assert limited.paths() == ["a.mp4", "c.mp4"]


def test_ten_that_race_never_have_more_together(private: Private, limited: Person) -> None:
    """Whether their length is known or not, and as forms."""
    with ThreadPoolExecutor(10) as pool:

        def race(number: int) -> int:
            with private.server.client(headers=limited.headers) as http:
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


def test_moving_costs_nothing_and_a_quota_of_one_is_nobody_elses(limited: Person, person: Person) -> None:
    assert put(limited, "film.mp4", QUOTA) == 201
    moved = limited.ask(
        "PATCH",
        "/files/film.mp4",
        content=b'{"folder": "films"}',
        headers={"content-type": "application/merge-patch+json"},
    )
    assert moved.status_code == 200
    assert person.ask("PUT", "/files/film.mp4", content=noise(QUOTA + 1)).status_code == 201
    assert person.ask("GET", "/account").json()["quota"] is None


def test_no_quota_at_all_takes_empty_files(private: Private) -> None:
    nothing = private.person(quota=0)
    assert nothing.ask("PUT", "/files/a.mp4", content=b"x").status_code == 507
    assert nothing.ask("PUT", "/files/a.mp4", content=b"").status_code == 201
