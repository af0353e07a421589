"""An account that is deleted is gone with all its files, also when the server is killed in between."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.accounts.models import Destination
from tests import mongo
from tests.beneath import beneath
from tests.http.accounts.conftest import PASSWORD, Person, Private, basic, bearer, opened, private_server
from tests.support import NewLibrary, Server, noise, running

Problem = Callable[[httpx.Response, int], str]


def leave(person: Person, password: str = PASSWORD, **options: Any) -> httpx.Response:
    return person.ask("POST", "/account/delete", json={"password": password}, **options)


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


def test_an_account_is_deleted_with_its_library_and_no_other(
    private: Private, other: Person, problem: Problem
) -> None:
    leaver = private.person(email := "leaver@example.org")
    for number in range(5):
        leaver.put(f"films/{number}.mp4", noise(1000))
    leaver.put("films/5.mp4.part", b"in no list")
    link, token = leaver.link("films/0.mp4"), leaver.token()
    other.put("films/0.mp4", b"another's")
    assert len(files_beneath(private.server, leaver.account.library)) == 6
    problem(leave(leaver, "wrong password"), 401)
    problem(private.ask("POST", "/account/delete", headers=bearer(token), json={"password": PASSWORD}), 403)
    assert len(leaver.paths()) == 5
    answer = leave(leaver)
    assert answer.status_code == 204
    assert "Max-Age=0" in answer.headers["set-cookie"]
    # At once nobody gets in any more, and within a while all is gone.
    for headers in (leaver.headers, bearer(token), basic(email)):
        assert private.ask("GET", "/files/films/0.mp4", headers=headers).status_code == 401
    assert private.open_link(link["url"]).status_code == 403
    wait(lambda: private.store.account(leaver.account.id) is None, "the account")
    assert files_beneath(private.server, leaver.account.library) == []
    assert other.content("films/0.mp4") == b"another's"
    # Who comes after with this address finds nothing of it.
    heir = private.person(email)
    assert heir.account.library != leaver.account.library
    assert heir.paths() == []
    assert private.open_link(link["url"]).status_code == 403
    assert private.ask("GET", "/files", headers=bearer(token)).status_code == 401


def test_a_person_deletes_the_account_by_a_form(private: Private) -> None:
    leaver = private.person()
    html = {"accept": "text/html"}
    answer = leaver.ask("POST", "/account/delete", data={"password": PASSWORD}, headers=html)
    assert (answer.status_code, answer.headers["location"]) == (303, "/login")


def test_the_last_administrator_stays_while_there_are_others(
    private: Private, admin: Person, other: Person, problem: Problem
) -> None:
    problem(leave(admin), 409)
    assert admin.ask("GET", "/account").status_code == 200


def test_an_upload_under_way_leaves_nothing(private: Private, connect: Callable[..., Any]) -> None:
    leaver = private.person()
    connection = connect()
    before = beneath(private.server).leftovers()
    connection.request("PUT", "/files/film.mp4", leaver.cookie, "Content-Length: 100000")
    connection.send(noise(50_000))
    time.sleep(0.2)
    assert leave(leaver).status_code == 204
    wait(lambda: private.store.account(leaver.account.id) is None, "the account")
    connection.send(noise(50_000))
    assert connection.answer().status_code == 401
    assert files_beneath(private.server, leaver.account.library) == []
    wait(lambda: beneath(private.server).leftovers() <= before, "what the upload has sent")


@pytest.fixture
def fresh(tmp_path: Path, new_library: NewLibrary) -> Iterator[Private]:
    """A server of its own, where nobody has an account."""
    with private_server(tmp_path / "fresh", new_library()) as fresh:
        yield fresh


def test_what_a_kill_breaks_off_is_finished_after_the_restart(fresh: Private) -> None:
    fresh.person("admin@example.org")
    leaver, stayer = fresh.person(), fresh.person()
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


def test_files_that_are_kept_move_to_another_account_past_a_kill(fresh: Private) -> None:
    """Never over a file that is there, and whatever the quota is; and hidden files too."""
    fresh.person("admin@example.org")
    leaver, receiver = fresh.person("leaver@nas"), fresh.person("receiver@nas", quota=10)
    paths = [f"{number % 7}/{number}.mp4" for number in range(60)]
    below = beneath(fresh.server)
    below.fill(paths, leaver.account.library)
    leaver.put("0/.DS_Store", b"hidden")
    leaver.put("/".join("d" * 31) + "/deep.mp4", b"deep")
    for path in ("leaver@nas/0/7.mp4", "leaver@nas/3"):  # the second where a folder would be
        below.fill([path], receiver.account.library)
    contents = {path: leaver.content(path) for path in leaver.paths()}
    fresh.store.leave(leaver.account.id, Destination(receiver.account.library, "leaver@nas"))
    assert leave(fresh.person()).status_code == 204  # so that the server looks now
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


def test_files_go_to_no_account_that_is_leaving_itself(fresh: Private) -> None:
    fresh.person("admin@example.org")
    leaver, receiver, other = (fresh.person(f"{name}@nas") for name in ("leaver", "receiver", "other"))
    leaver.put("film.mp4", b"a film")
    fresh.store.leave(receiver.account.id)
    fresh.store.leave(leaver.account.id, Destination(receiver.account.library, "leaver@nas"))
    third = fresh.person("third@nas")
    assert leave(third).status_code == 204  # so that the server looks now
    for gone in (receiver, third):
        wait(lambda gone=gone: fresh.store.account(gone.account.id) is None, gone.email)  # type: ignore[misc]
    wait(lambda: "gets them is gone or leaving" in fresh.server.log(), "the log")
    assert len(files_beneath(fresh.server, leaver.account.library)) == 1
    # Another one is named.
    fresh.store.leave(leaver.account.id, Destination(other.account.library, "leaver@nas"))
    assert leave(fresh.person()).status_code == 204
    wait(lambda: fresh.store.account(leaver.account.id) is None, "the account")
    assert other.content("leaver@nas/film.mp4") == b"a film"


def test_deletion_is_shown_before_and_takes_the_right_address(fresh: Private, problem: Problem) -> None:
    admin = fresh.person("admin@example.org")
    person = fresh.person()
    has_folder = fresh.server.settings.get("storage") != "gridfs"
    person.put("film.mp4", b"a film")
    seen = person.ask("GET", "/account/delete")
    assert seen.json() == {"files": 1, "size": 6, "can_keep_files": False}
    assert seen.headers["cache-control"] == "no-store"
    asked = {"password": PASSWORD, "email": "admin@example.org"}
    problem(person.ask("POST", "/account/delete", json=asked), 422)
    kept = {"password": PASSWORD, "email": person.email.upper(), "keep_files": True}
    problem(person.ask("POST", "/account/delete", json=kept), 403)
    for neither in ("yes", "True", 1, ["true"]):
        problem(person.ask("POST", "/account/delete", json=kept | {"keep_files": neither}), 422)
    assert person.paths() == ["film.mp4"]
    # An administrator may keep them in the folder.
    second = fresh.person("second@nas", is_admin=True)
    second.put("films/film.mp4", b"a film")
    for one in (admin, second):
        assert one.ask("GET", "/account/delete").json()["can_keep_files"] is has_folder
    if has_folder:
        kept = {"password": PASSWORD, "email": "second@nas", "keep_files": True}
        assert second.ask("POST", "/account/delete", json=kept).status_code == 204
        wait(lambda: fresh.store.account(second.account.id) is None, "the second")
        assert admin.content("second@nas/films/film.mp4") == b"a film"
        assert (fresh.server.files / "second@nas" / "films" / "film.mp4").read_bytes() == b"a film"


def test_files_of_the_folder_itself_stay_in_it(fresh: Private) -> None:
    if fresh.server.settings.get("storage") == "gridfs":
        return
    admin = fresh.person("admin@example.org")
    admin.put("films/film.mp4", b"a film")
    by_hand = fresh.server.files / "by" / "hand.mp4"
    by_hand.parent.mkdir()
    by_hand.write_bytes(b"by hand")
    seen = admin.ask("GET", "/account/delete").json()
    assert (seen["files"], seen["size"]) == (2, 13)
    kept = {"password": PASSWORD, "keep_files": True}
    assert admin.ask("POST", "/account/delete", json=kept).status_code == 204
    wait(lambda: fresh.store.account(admin.account.id) is None, "the account")
    assert (fresh.server.files / "films" / "film.mp4").read_bytes() == b"a film"
    assert fresh.person().content("films/film.mp4") == b"a film"


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
    with running(tmp_path / "open", **settings) as server, opened(server) as store, server.client() as http:
        private = Private(server, store, http)

        def sign_up(number: int) -> dict[str, Any]:
            body = {"email": f"racer-{number}@example.org", "password": PASSWORD}
            made: dict[str, Any] = private.ask("POST", "/sign-up", json=body).raise_for_status().json()
            return made

        with ThreadPoolExecutor(10) as pool:
            accounts = list(pool.map(sign_up, range(10)))
        (first,) = [account for account in accounts if account["is_admin"]]
        for account in accounts:
            headers = basic(account["email"])
            answer = private.ask("GET", "/files/films/film.mp4", headers=headers)
            by_id = private.ask("GET", f"/stream/{file['id']}", headers=headers)
            if account == first:
                assert (answer.content, by_id.content) == (b"there before", b"there before")
                assert account["used"] == len(b"there before")
            else:
                assert (answer.status_code, by_id.status_code) == (404, 404)
                assert private.ask("GET", "/files?recursive=1", headers=headers).json()["items"] == []
        # The last administrator may leave when nobody else is there, and its library goes with it.
        for account in accounts:
            if account != first:
                store.leave(account["id"])
        body = {"password": PASSWORD}
        gone = private.ask("POST", "/account/delete", json=body, headers=basic(first["email"]))
        assert gone.status_code == 204
        wait(lambda: store.account(first["id"]) is None, "the first account")
        assert beneath(server).content("films/film.mp4") is None
