"""An account that is deleted is gone with all its files, also when the server is killed in between."""

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
from tests.support import NewLibrary, Server, each_backend, mongo, noise, running
from tests.support.beneath import beneath

CheckProblem = Callable[[httpx.Response, int], str]


def leave(user: User, password: str = PASSWORD, **options: Any) -> httpx.Response:
    return user.request("POST", "/account/delete", json={"password": password}, **options)


def wait(condition: Callable[[], bool], what: str, within: float = 20) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def files_beneath(server: Server, library: str) -> list[str]:
    """What the storage holds of a library, looked at past the program."""
    if server.settings["storage"] == "gridfs":
        media = mongo.database(server.settings["mongodb_url"])["media"]
        return [document["filename"] for document in media.find({"library": library})]
    folder = Path(server.settings["files_dir"]) / ".seekable" / "libraries" / library
    return [str(path) for path in folder.rglob("*") if path.is_file()]


@each_backend
def test_an_account_is_deleted_with_its_library_and_no_other(
    account_server: AccountServer, other_user: User, check_problem: CheckProblem
) -> None:
    leaver = account_server.new_user(email := "leaver@example.org")
    for number in range(5):
        leaver.put(f"films/{number}.mp4", noise(1000))
    leaver.put("films/5.mp4.part", b"in no list")
    link, token = leaver.new_link("films/0.mp4"), leaver.new_token()
    other_user.put("films/0.mp4", b"another's")
    assert len(files_beneath(account_server.server, leaver.account.library)) == 6
    check_problem(leave(leaver, "wrong password"), 401)
    check_problem(
        account_server.request("POST", "/account/delete", headers=bearer(token), json={"password": PASSWORD}),
        403,
    )
    assert len(leaver.paths()) == 5
    response = leave(leaver)
    assert response.status_code == 204
    assert "Max-Age=0" in response.headers["set-cookie"]
    # At once nobody gets in any more, and within a while all is gone.
    for headers in (leaver.headers, bearer(token), basic(email)):
        assert account_server.request("GET", "/files/films/0.mp4", headers=headers).status_code == 401
    assert account_server.open_link(link["url"]).status_code == 403
    wait(lambda: account_server.store.account(leaver.account.id) is None, "the account")
    assert files_beneath(account_server.server, leaver.account.library) == []
    assert other_user.content("films/0.mp4") == b"another's"
    # Who comes after with this address finds nothing of it.
    heir = account_server.new_user(email)
    assert heir.account.library != leaver.account.library
    assert heir.paths() == []
    assert account_server.open_link(link["url"]).status_code == 403
    assert account_server.request("GET", "/files", headers=bearer(token)).status_code == 401


def test_a_person_deletes_the_account_by_a_form(account_server: AccountServer) -> None:
    leaver = account_server.new_user()
    html = {"accept": "text/html"}
    response = leaver.request("POST", "/account/delete", data={"password": PASSWORD}, headers=html)
    assert (response.status_code, response.headers["location"]) == (303, "/login")


def test_the_last_administrator_stays_while_there_are_others(
    account_server: AccountServer, admin: User, other_user: User, check_problem: CheckProblem
) -> None:
    check_problem(leave(admin), 409)
    assert admin.request("GET", "/account").status_code == 200


@each_backend
def test_an_upload_under_way_leaves_nothing(
    account_server: AccountServer, connect: Callable[..., Any]
) -> None:
    leaver = account_server.new_user()
    connection = connect()
    before = beneath(account_server.server).leftovers()
    connection.request("PUT", "/files/film.mp4", leaver.cookie, "Content-Length: 100000")
    connection.send(noise(50_000))
    time.sleep(0.2)
    assert leave(leaver).status_code == 204
    wait(lambda: account_server.store.account(leaver.account.id) is None, "the account")
    connection.send(noise(50_000))
    assert connection.receive_response().status_code == 401
    assert files_beneath(account_server.server, leaver.account.library) == []
    wait(lambda: beneath(account_server.server).leftovers() <= before, "what the upload has sent")


@pytest.fixture
def fresh(tmp_path: Path, new_library: NewLibrary) -> Iterator[AccountServer]:
    """A server of its own, where nobody has an account."""
    with run_account_server(tmp_path / "fresh", new_library()) as fresh:
        yield fresh


@each_backend
def test_what_a_kill_breaks_off_is_finished_after_the_restart(fresh: AccountServer) -> None:
    fresh.new_user("admin@example.org")
    leaver, stayer = fresh.new_user(), fresh.new_user()
    paths = (f"{number % 7}/{number}.mp4" for number in range(110))
    beneath(fresh.server).fill(paths, leaver.account.library)
    stayer.put("film.mp4", b"stays")
    assert leave(leaver).status_code == 204
    wait(lambda: len(files_beneath(fresh.server, leaver.account.library)) < 105, "the first files")
    fresh.server.kill()
    left = files_beneath(fresh.server, leaver.account.library)
    assert left, "it was killed in the middle"
    port = fresh.server.port
    fresh.server.start("--port", str(port))
    fresh.server.url = f"http://127.0.0.1:{port}"
    wait(lambda: fresh.store.account(leaver.account.id) is None, "the account")
    assert files_beneath(fresh.server, leaver.account.library) == []
    assert stayer.content("film.mp4") == b"stays"


@each_backend
def test_files_that_are_kept_move_to_another_account_past_a_kill(fresh: AccountServer) -> None:
    """Never over a file that is there, and whatever the quota is; and hidden files too."""
    fresh.new_user("admin@example.org")
    leaver, receiver = fresh.new_user("leaver@nas"), fresh.new_user("receiver@nas", quota=10)
    paths = [f"{number % 7}/{number}.mp4" for number in range(60)]
    below = beneath(fresh.server)
    below.fill(paths, leaver.account.library)
    leaver.put("0/.DS_Store", b"hidden")
    leaver.put("/".join("d" * 31) + "/deep.mp4", b"deep")
    for path in ("leaver@nas/0/7.mp4", "leaver@nas/3"):  # the second where a folder would be
        below.fill([path], receiver.account.library)
    contents = {path: leaver.content(path) for path in leaver.paths()}
    fresh.store.leave(leaver.account.id, Destination(receiver.account.library, "leaver@nas"))
    assert leave(fresh.new_user()).status_code == 204  # so that the server looks now
    wait(lambda: len(files_beneath(fresh.server, leaver.account.library)) < 58, "the first files")
    fresh.server.kill()
    assert files_beneath(fresh.server, leaver.account.library), "it was killed in the middle"
    port = fresh.server.port
    fresh.server.start("--port", str(port))
    fresh.server.url = f"http://127.0.0.1:{port}"
    wait(lambda: fresh.store.account(leaver.account.id) is None, "the account")
    assert files_beneath(fresh.server, leaver.account.library) == []
    found = receiver.paths()
    flat = {path: f"leaver@nas/{path.rpartition('/')[2]}" for path in contents}
    expected = {path: f"leaver@nas/{path}" for path in contents}
    expected |= {path: flat[path] for path in contents if path.startswith(("3/", "d/"))}
    expected["0/7.mp4"] = "leaver@nas/0/7 (2).mp4"
    assert sorted(found) == sorted([*expected.values(), "leaver@nas/0/7.mp4", "leaver@nas/3"])
    for path, new in expected.items():
        assert receiver.content(new) == contents[path]
    assert receiver.content("leaver@nas/0/.DS_Store") == b"hidden"


def test_files_go_to_no_account_that_is_leaving_itself(fresh: AccountServer) -> None:
    fresh.new_user("admin@example.org")
    leaver, receiver, other_user = (fresh.new_user(f"{name}@nas") for name in ("leaver", "receiver", "other"))
    leaver.put("film.mp4", b"a film")
    fresh.store.leave(receiver.account.id)
    fresh.store.leave(leaver.account.id, Destination(receiver.account.library, "leaver@nas"))
    third = fresh.new_user("third@nas")
    assert leave(third).status_code == 204  # so that the server looks now
    for gone in (receiver, third):
        wait(lambda gone=gone: fresh.store.account(gone.account.id) is None, gone.email)  # type: ignore[misc]
    wait(lambda: "gets them is gone or leaving" in fresh.server.log(), "the log")
    assert len(files_beneath(fresh.server, leaver.account.library)) == 1
    # Another one is named.
    fresh.store.leave(leaver.account.id, Destination(other_user.account.library, "leaver@nas"))
    assert leave(fresh.new_user()).status_code == 204
    wait(lambda: fresh.store.account(leaver.account.id) is None, "the account")
    assert other_user.content("leaver@nas/film.mp4") == b"a film"


def test_deletion_is_shown_before_and_takes_the_right_address(
    fresh: AccountServer, check_problem: CheckProblem
) -> None:
    admin = fresh.new_user("admin@example.org")
    user = fresh.new_user()
    has_folder = fresh.server.settings.get("storage") != "gridfs"
    user.put("film.mp4", b"a film")
    seen = user.request("GET", "/account/delete")
    assert seen.json() == {"files": 1, "size": 6, "can_keep_files": False}
    assert seen.headers["cache-control"] == "no-store"
    request_once = {"password": PASSWORD, "email": "admin@example.org"}
    check_problem(user.request("POST", "/account/delete", json=request_once), 422)
    kept = {"password": PASSWORD, "email": user.email.upper(), "keep_files": True}
    check_problem(user.request("POST", "/account/delete", json=kept), 403)
    for neither in ("yes", "True", 1, ["true"]):
        check_problem(user.request("POST", "/account/delete", json=kept | {"keep_files": neither}), 422)
    assert user.paths() == ["film.mp4"]
    # An administrator may keep them in the folder.
    second = fresh.new_user("second@nas", is_admin=True)
    second.put("films/film.mp4", b"a film")
    for one in (admin, second):
        assert one.request("GET", "/account/delete").json()["can_keep_files"] is has_folder
    if has_folder:
        kept = {"password": PASSWORD, "email": "second@nas", "keep_files": True}
        assert second.request("POST", "/account/delete", json=kept).status_code == 204
        wait(lambda: fresh.store.account(second.account.id) is None, "the second")
        assert admin.content("second@nas/films/film.mp4") == b"a film"
        assert (fresh.server.files / "second@nas" / "films" / "film.mp4").read_bytes() == b"a film"


@each_backend
def test_files_of_the_folder_itself_stay_in_it(fresh: AccountServer) -> None:
    if fresh.server.settings.get("storage") == "gridfs":
        return
    admin = fresh.new_user("admin@example.org")
    admin.put("films/film.mp4", b"a film")
    by_hand = fresh.server.files / "by" / "hand.mp4"
    by_hand.parent.mkdir()
    by_hand.write_bytes(b"by hand")
    seen = admin.request("GET", "/account/delete").json()
    assert (seen["files"], seen["size"]) == (2, 13)
    kept = {"password": PASSWORD, "keep_files": True}
    assert admin.request("POST", "/account/delete", json=kept).status_code == 204
    wait(lambda: fresh.store.account(admin.account.id) is None, "the account")
    assert (fresh.server.files / "films" / "film.mp4").read_bytes() == b"a film"
    assert fresh.new_user().content("films/film.mp4") == b"a film"


@each_backend
def test_a_library_that_was_open_is_that_of_the_first_account(
    tmp_path: Path, new_library: NewLibrary
) -> None:
    """And nobody else's; and of twenty who sign up at once one is first."""
    library = new_library()
    if "mongodb_url" in library:
        library["users_url"] = str(library["mongodb_url"]).replace("library", "users")
    with running(tmp_path / "open", access="open", **library) as before, before.client() as http:
        file = http.put("/files/films/film.mp4", content=b"there before").json()
        assert "owner" not in file
        assert http.post("/login", json={}).status_code in (404, 405)
    settings = {**before.settings, "access": "accounts", "sign_up": "open"}
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

        with ThreadPoolExecutor(10) as pool:
            accounts = list(pool.map(sign_up, range(10)))
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
        # The last administrator may leave when nobody else is there, and its library goes with it.
        for account in accounts:
            if account != first:
                store.leave(account["id"])
        body = {"password": PASSWORD}
        gone = account_server.request("POST", "/account/delete", json=body, headers=basic(first["email"]))
        assert gone.status_code == 204
        wait(lambda: store.account(first["id"]) is None, "the first account")
        assert beneath(server).content("films/film.mp4") is None
