"""Account deletion removes the account and all its files, even if the server is killed meanwhile."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.accounts.models import Destination
from tests.http.accounts.conftest import (
    PASSWORD,
    AccountServer,
    User,
    basic,
    bearer,
    open_account_store,
    run_account_server,
)
from tests.support import NewLibrary, Server, each_backend, mongo, noise, on_disk_and_gridfs, running
from tests.support.beneath import beneath

CheckProblem = Callable[[httpx.Response, int], str]


def delete_account(user: User, password: str = PASSWORD, **options: Any) -> httpx.Response:
    return user.request("POST", "/account/delete", json={"password": password}, **options)


def wait_until(
    condition: Callable[[], bool], expectation: str, *, within: float = 50, every: float = 0.05
) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, expectation
        time.sleep(every)


def stored_paths(server: Server, library: str) -> list[str]:
    """Return the files of a library, read straight from the storage."""
    if server.settings["storage"] == "gridfs":
        media = mongo.database(server.settings["mongodb_url"])["media"]
        return [document["filename"] for document in media.find({"library": library})]
    folder = Path(server.settings["files_dir"]) / ".seekable" / "libraries" / library
    return [str(path) for path in folder.rglob("*") if path.is_file()]


@on_disk_and_gridfs
def test_deletion_removes_account_and_only_its_library(
    account_server: AccountServer, other_user: User, check_problem: CheckProblem
) -> None:
    leaver = account_server.new_user(email := "leaver@example.org")
    for number in range(5):
        leaver.put(f"films/{number}.mp4", noise(1000))
    leaver.put("films/5.mp4.part", b"in no list")
    link, token = leaver.new_link("films/0.mp4"), leaver.new_token()
    other_user.put("films/0.mp4", b"another's")
    assert len(stored_paths(account_server.server, leaver.account.library)) == 6
    check_problem(delete_account(leaver, "wrong password"), 401)
    check_problem(
        account_server.request("POST", "/account/delete", headers=bearer(token), json={"password": PASSWORD}),
        403,
    )
    assert len(leaver.paths()) == 5
    response = delete_account(leaver)
    assert response.status_code == 204
    assert "Max-Age=0" in response.headers["set-cookie"]
    # All credentials fail immediately; the files are removed in the background.
    for headers in (leaver.headers, bearer(token), basic(email)):
        assert account_server.request("GET", "/files/films/0.mp4", headers=headers).status_code == 401
    assert account_server.open_link(link["url"]).status_code == 403
    wait_until(lambda: account_server.store.get(leaver.account.id) is None, "the account is deleted")
    assert stored_paths(account_server.server, leaver.account.library) == []
    assert other_user.content("films/0.mp4") == b"another's"
    # A new account with this address finds nothing of the old one.
    successor = account_server.new_user(email)
    assert successor.account.library != leaver.account.library
    assert successor.paths() == []
    assert account_server.open_link(link["url"]).status_code == 403
    assert account_server.request("GET", "/files", headers=bearer(token)).status_code == 401


def test_deletion_by_form_redirects_to_login(account_server: AccountServer) -> None:
    leaver = account_server.new_user()
    html = {"accept": "text/html"}
    response = leaver.request("POST", "/account/delete", data={"password": PASSWORD}, headers=html)
    assert (response.status_code, response.headers["location"]) == (303, "/login")


def test_last_administrator_cannot_leave_while_other_accounts_exist(
    account_server: AccountServer, admin: User, other_user: User, check_problem: CheckProblem
) -> None:
    check_problem(delete_account(admin), 409)
    assert admin.request("GET", "/account").status_code == 200


@on_disk_and_gridfs
def test_upload_leaves_nothing_when_its_account_is_deleted(
    account_server: AccountServer, connect: Callable[..., Any]
) -> None:
    leaver = account_server.new_user()
    connection = connect()
    leftovers = beneath(account_server.server).leftovers()
    connection.request("PUT", "/files/film.mp4", leaver.cookie, "Content-Length: 100000")
    connection.send(noise(50_000))
    time.sleep(0.2)
    assert delete_account(leaver).status_code == 204
    wait_until(lambda: account_server.store.get(leaver.account.id) is None, "the account is deleted")
    connection.send(noise(50_000))
    assert connection.receive_response().status_code == 401
    assert stored_paths(account_server.server, leaver.account.library) == []
    wait_until(
        lambda: beneath(account_server.server).leftovers() <= leftovers,
        "the bytes of the upload are removed",
    )


@pytest.fixture
def own_server(tmp_path: Path, new_library: NewLibrary) -> Iterator[AccountServer]:
    """A server of this test, without accounts."""
    with run_account_server(tmp_path / "fresh", new_library()) as own_server:
        yield own_server


KILLS = 5
"""Attempts to kill a server before it has deleted all files: on a busy machine, it may be faster."""


def kill_interrupts(server: Server, library: str, count: int) -> bool:
    """Kill the server when fewer than `count` files are left in the library, and start it again.

    Returns whether any were left.
    """
    wait_until(lambda: len(stored_paths(server, library)) < count, "the first files are gone", every=0)
    server.kill()
    remaining = stored_paths(server, library)
    port = server.port
    server.start("--port", str(port))
    server.url = f"http://127.0.0.1:{port}"
    return bool(remaining)


def test_deletion_resumes_after_kill(own_server: AccountServer) -> None:
    own_server.new_user("admin@example.org")
    stayer = own_server.new_user()
    stayer.put("film.mp4", b"stays")
    for _ in range(KILLS):
        leaver = own_server.new_user()
        paths = (f"{number % 7}/{number}.mp4" for number in range(110))
        beneath(own_server.server).fill(paths, leaver.account.library)
        assert delete_account(leaver).status_code == 204
        if kill_interrupts(own_server.server, leaver.account.library, 110):
            break
    else:
        pytest.fail("no kill interrupted the deletion")
    wait_until(lambda: own_server.store.get(leaver.account.id) is None, "the account is deleted")
    assert stored_paths(own_server.server, leaver.account.library) == []
    assert stayer.content("film.mp4") == b"stays"


def test_kept_files_move_to_another_account_despite_kill(own_server: AccountServer) -> None:
    """They never overwrite a file, may exceed the quota, and include hidden files."""
    own_server.new_user("admin@example.org")
    for _ in range(KILLS):
        leaver, receiver = own_server.new_user(), own_server.new_user(quota=10)
        paths = [f"{number % 7}/{number}.mp4" for number in range(60)]
        storage = beneath(own_server.server)
        storage.fill(paths, leaver.account.library)
        leaver.put("0/.DS_Store", b"hidden")
        leaver.put("/".join("d" * 31) + "/deep.mp4", b"deep")
        for path in ("leaver@nas/0/7.mp4", "leaver@nas/3"):  # the second where a folder would be
            storage.fill([path], receiver.account.library)
        contents = {path: leaver.content(path) for path in leaver.paths()}
        own_server.store.mark_leaving(leaver.account.id, Destination(receiver.account.library, "leaver@nas"))
        assert delete_account(own_server.new_user()).status_code == 204  # wakes the deletion worker
        if kill_interrupts(own_server.server, leaver.account.library, 62):
            break
    else:
        pytest.fail("no kill interrupted the move")
    wait_until(lambda: own_server.store.get(leaver.account.id) is None, "the account is deleted")
    assert stored_paths(own_server.server, leaver.account.library) == []
    moved_paths = receiver.paths()
    flat = {path: f"leaver@nas/{path.rpartition('/')[2]}" for path in contents}
    expected = {path: f"leaver@nas/{path}" for path in contents}
    expected |= {path: flat[path] for path in contents if path.startswith(("3/", "d/"))}
    expected["0/7.mp4"] = "leaver@nas/0/7 (2).mp4"
    assert sorted(moved_paths) == sorted([*expected.values(), "leaver@nas/0/7.mp4", "leaver@nas/3"])
    for path, new in expected.items():
        assert receiver.content(new) == contents[path]
    assert receiver.content("leaver@nas/0/.DS_Store") == b"hidden"


def test_kept_files_do_not_move_to_an_account_that_is_leaving(own_server: AccountServer) -> None:
    own_server.new_user("admin@example.org")
    leaver, receiver, other_user = (
        own_server.new_user(f"{name}@nas") for name in ("leaver", "receiver", "other")
    )
    leaver.put("film.mp4", b"a film")
    own_server.store.mark_leaving(receiver.account.id)
    own_server.store.mark_leaving(leaver.account.id, Destination(receiver.account.library, "leaver@nas"))
    third = own_server.new_user("third@nas")
    assert delete_account(third).status_code == 204  # wakes the deletion worker
    for leaving in (receiver, third):
        account_id = leaving.account.id
        wait_until(lambda account_id=account_id: own_server.store.get(account_id) is None, leaving.email)  # type: ignore[misc]
    wait_until(lambda: "should receive them is deleted" in own_server.server.log(), "the failure is logged")
    assert len(stored_paths(own_server.server, leaver.account.library)) == 1
    # Another destination takes them.
    own_server.store.mark_leaving(leaver.account.id, Destination(other_user.account.library, "leaver@nas"))
    assert delete_account(own_server.new_user()).status_code == 204
    wait_until(lambda: own_server.store.get(leaver.account.id) is None, "the account is deleted")
    assert other_user.content("leaver@nas/film.mp4") == b"a film"


def test_deletion_shows_its_effect_and_requires_own_address(
    own_server: AccountServer, check_problem: CheckProblem
) -> None:
    admin = own_server.new_user("admin@example.org")
    user = own_server.new_user()
    has_folder = own_server.server.settings.get("storage") != "gridfs"
    user.put("film.mp4", b"a film")
    preview = user.request("GET", "/account/delete")
    assert preview.json() == {"files": 1, "size": 6, "can_keep_files": False}
    assert preview.headers["cache-control"] == "no-store"
    body = {"password": PASSWORD, "email": "admin@example.org"}
    check_problem(user.request("POST", "/account/delete", json=body), 422)
    kept = {"password": PASSWORD, "email": user.email.upper(), "keep_files": True}
    check_problem(user.request("POST", "/account/delete", json=kept), 403)
    # The permission is checked before the password.
    check_problem(user.request("POST", "/account/delete", json={"keep_files": True}), 403)
    check_problem(user.request("POST", "/account/delete", json={"keep_files": False}), 422)
    for invalid in ("yes", "True", 1, ["true"]):
        check_problem(user.request("POST", "/account/delete", json=kept | {"keep_files": invalid}), 422)
    assert user.paths() == ["film.mp4"]
    # An administrator may keep the files in the folder of files.
    second = own_server.new_user("second@nas", is_admin=True)
    second.put("films/film.mp4", b"a film")
    for one in (admin, second):
        assert one.request("GET", "/account/delete").json()["can_keep_files"] is has_folder
    if has_folder:
        kept = {"password": PASSWORD, "email": "second@nas", "keep_files": True}
        assert second.request("POST", "/account/delete", json=kept).status_code == 204
        wait_until(lambda: own_server.store.get(second.account.id) is None, "the second account is deleted")
        assert admin.content("second@nas/films/film.mp4") == b"a film"
        assert (own_server.server.files / "second@nas" / "films" / "film.mp4").read_bytes() == b"a film"


def test_files_in_the_folder_survive_deletion_when_kept(own_server: AccountServer) -> None:
    admin = own_server.new_user("admin@example.org")
    admin.put("films/film.mp4", b"a film")
    own_file = own_server.server.files / "by" / "hand.mp4"
    own_file.parent.mkdir()
    own_file.write_bytes(b"by hand")
    preview = admin.request("GET", "/account/delete").json()
    assert (preview["files"], preview["size"]) == (2, 13)
    kept = {"password": PASSWORD, "keep_files": True}
    assert admin.request("POST", "/account/delete", json=kept).status_code == 204
    wait_until(lambda: own_server.store.get(admin.account.id) is None, "the account is deleted")
    assert (own_server.server.files / "films" / "film.mp4").read_bytes() == b"a film"
    assert own_server.new_user().content("films/film.mp4") == b"a film"


@each_backend
def test_first_account_owns_a_library_that_was_open(tmp_path: Path, new_library: NewLibrary) -> None:
    """Only that account does, and exactly one of five concurrent sign-ups is first."""
    library = new_library()
    if "mongodb_url" in library:
        library["users_url"] = str(library["mongodb_url"]).replace("library", "users")
    with running(tmp_path / "open", access="open", **library) as open_server, open_server.client() as http:
        file = http.put("/files/films/film.mp4", content=b"there before").json()
        assert "owner" not in file
        assert http.post("/login", json={}).status_code in (404, 405)
    settings = {**open_server.settings, "access": "accounts", "sign_up": "open"}
    with (
        running(tmp_path / "open", **settings) as server,
        open_account_store(server) as store,
        server.client() as http,
    ):
        account_server = AccountServer(server, store, http)

        def sign_up(number: int) -> dict[str, Any]:
            body = {"email": f"racer-{number}@example.org", "password": PASSWORD}
            made: dict[str, Any] = (
                account_server.request("POST", "/sign-up", json=body).raise_for_status().json()
            )
            return made

        with ThreadPoolExecutor(5) as pool:
            accounts = list(pool.map(sign_up, range(5)))
        (first,) = [account for account in accounts if account["is_admin"]]
        for account in accounts:
            headers = basic(account["email"])
            response = account_server.request("GET", "/files/films/film.mp4", headers=headers)
            by_id = account_server.request("GET", f"/stream/{file['id']}", headers=headers)
            if account == first:
                assert (response.content, by_id.content) == (b"there before", b"there before")
                assert account["used"] == len(b"there before")
            else:
                assert (response.status_code, by_id.status_code) == (404, 404)
                assert (
                    account_server.request("GET", "/files?recursive=1", headers=headers).json()["items"] == []
                )
        # The last administrator may leave once no other account exists; its library is removed too.
        for account in accounts:
            if account != first:
                store.mark_leaving(account["id"])
        body = {"password": PASSWORD}
        leaving = account_server.request("POST", "/account/delete", json=body, headers=basic(first["email"]))
        assert leaving.status_code == 204
        wait_until(lambda: store.get(first["id"]) is None, "the first account is deleted")
        assert beneath(server).content("films/film.mp4") is None
