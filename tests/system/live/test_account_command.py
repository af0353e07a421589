"""`seekable account`, on each kind of database."""

import asyncio
import hashlib
import json
import os
import pty
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from app.accounts.models import Account, Destination, Link, Scope, Session, SigningKey, Token
from app.accounts.passwords import Passwords
from app.accounts.store import AccountStore
from app.database import open_accounts, open_stores
from app.settings import Settings
from app.storage.types import Key, Listing
from tests.conftest import BACKENDS
from tests.support import running
from tests.support.forking import COMMAND, Command, completed

Run = Callable[..., "subprocess.CompletedProcess[str]"]

PASSWORD = "correct horse – battery"


BOTH = pytest.mark.parametrize("settings", ["filesystem", "gridfs"], indirect=True)


@pytest.fixture(params=["filesystem"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    options = BACKENDS[request.param]()
    if "mongodb_url" in options:  # all tests share one MongoDB, but each needs a `users` database of its own
        options["users_url"] = str(options["mongodb_url"]).replace("library", "users")
    return {"files_dir": tmp_path / "files", "access": "accounts", **options}


@pytest.fixture
def store(settings: dict[str, Any]) -> Iterator[AccountStore]:
    with open_accounts(Settings(_env_file=None, **settings), create=True) as store:
        yield store


def environment(settings: dict[str, Any]) -> dict[str, str]:
    controller = {f"SEEKABLE_{key.upper()}": str(value) for key, value in settings.items()}
    return {key: value for key, value in os.environ.items() if not key.startswith("SEEKABLE_")} | controller


@pytest.fixture
def run(settings: dict[str, Any], tmp_path: Path) -> Run:
    """Return a function that runs the command with arguments and these bytes as its standard input."""

    def run(*arguments: str, given: bytes = b"", **more: object) -> "subprocess.CompletedProcess[str]":
        options = environment(settings | more)
        return completed("account", *arguments, folder=tmp_path, environment=options, given=given)

    return run


@BOTH
def test_account_can_be_added_changed_and_removed(
    run: Run, store: AccountStore, settings: dict[str, Any]
) -> None:
    given = f"{PASSWORD}\n".encode()
    assert run("add", "Anna@NAS", given=given).stdout == "anna@nas can log in, as an administrator.\n"
    assert run("add", "bert@nas", "--quota", "10GiB", given=given).stdout == "bert@nas can log in.\n"
    anna, bert = store.list(limit=9)
    assert Passwords().match(anna.password, PASSWORD)
    assert (anna.library, bert.library, bert.quota) == ("", bert.id, 10 << 30)

    heads, first, second = (line.split("\t") for line in run("list").stdout.splitlines())
    assert heads == ["email", "id", "state", "quota", "created", "files"]
    assert first[:4] == ["anna@nas", anna.id, "administrator", "-"]
    assert second[:4] == ["bert@nas", bert.id, "-", "10.0GiB"]
    if settings["storage"] == "filesystem":
        files = settings["files_dir"]
        assert [first[5], second[5]] == [str(files), str(files / ".seekable" / "libraries" / bert.id)]
    else:
        assert second[5].endswith(f'{{"library": "{bert.id}"}}')

    token, session, link = _token(bert), _session(bert), _link(bert)
    store.tokens.add(token)
    store.links.add(link)
    store.sessions.add(session, version=1)
    reset = run("reset", "bert@nas", given=b"another password")
    assert reset.stdout == "bert@nas has a new password. All its logins, tokens and links are revoked.\n"
    found = store.by_email("bert@nas")
    assert found is not None
    assert Passwords().match(found.password, "another password")
    assert found.version == 2
    assert (
        store.tokens.get(token.hash) is store.sessions.get(session.hash) is store.links.get(link.id) is None
    )

    for command, is_admin in (("promote", True), ("demote", False)):
        assert run(command, "bert@nas").returncode == 0
        assert store.get(bert.id) == replace(found, is_admin=is_admin)
    for command, is_so in (("disable", {"disabled": True}), ("enable", {}), ("remove", {"leaving": True})):
        assert run(command, "bert@nas", *(["--yes"] if command == "remove" else [])).returncode == 0
        assert store.get(bert.id) == replace(found, **is_so)
    assert run("list").stdout.splitlines()[2].split("\t")[2] == "leaving"


@BOTH
def test_remove_shows_files_and_where_they_are_kept(
    run: Run, store: AccountStore, settings: dict[str, Any]
) -> None:
    _, bert, cleo = [
        store.add(Account(name, f"{name}@nas", "", 1, name, name == "anna", False, False, quota, _now()))
        for name, quota in (("anna", None), ("bert", None), ("cleo", 1))
    ]
    for path in ("a.mp4", "b/c.mp4"):
        _put(settings, bert.library, path)
    _put(settings, cleo.library, "bert@nas/taken.mp4")
    unconfirmed = run("remove", "bert@nas", given=b"bert@nas.example\n")
    assert "bert@nas has 2 files (12 bytes, 12B) in " in unconfirmed.stdout
    assert "All of them are deleted for good" in unconfirmed.stdout
    assert unconfirmed.returncode == 1
    assert store.get(bert.id) == bert
    kept = run("remove", "bert@nas", "--keep-files", "--to", "cleo@nas", given=b"BERT@nas\n")
    assert kept.returncode == 0, kept
    assert "bert@nas (2), the library of cleo@nas" in kept.stdout
    assert "cleo@nas will then exceed its quota" in kept.stdout
    assert [one.keep for one in store.list_leaving()] == [Destination(cleo.library, "bert@nas (2)")]
    again = run("remove", "bert@nas", "--keep-files", "--to", "cleo@nas", "--yes")
    assert "bert@nas (2), the library of cleo@nas" in again.stdout
    kept_in_shared_library = run("remove", "bert@nas", "--keep-files", "--yes")
    if settings.get("storage") == "gridfs":
        assert kept_in_shared_library.returncode == 2
        assert "--to EMAIL" in kept_in_shared_library.stderr
        return
    assert f"They are kept, in {settings['files_dir']}/bert@nas\n" in kept_in_shared_library.stdout
    assert [one.keep for one in store.list_leaving()] == [Destination("", "bert@nas")]
    store.set_admin(cleo.id, True)
    administrator_result = run("remove", "anna@nas", "--keep-files", "--yes")
    assert "They stay there." in administrator_result.stdout
    assert run("remove", "anna@nas", "--to", "cleo@nas").returncode == 2


def _put(settings: dict[str, Any], library: str, path: str) -> None:
    async def put() -> None:
        given = Settings(_env_file=None, **settings)
        async with open_stores(given) as stores, stores.storage.stage() as staged:
            await staged.write(b"a film")
            await staged.flush()
            await stores.storage.commit(Key.at(library, path), staged, content_type="video/mp4")

    asyncio.run(put())


def _link(account: Account) -> Link:
    at = account.created_at
    return Link("id", account.id, "film.mp4", False, False, False, at, at + timedelta(days=1))


def _token(account: Account) -> Token:
    return Token("id", account.id, "VLC", "hash", frozenset({Scope.READ}), account.created_at)


def _session(account: Account) -> Session:
    return Session("hash", account.id, account.created_at, account.created_at)


def test_command_fails_with_one_line_when_request_is_invalid(run: Run, store: AccountStore) -> None:
    store.add(Account("1", "anna@nas", "", 1, "1", True, False, False, None, _now()))
    store.add(Account("2", "bert@nas", "", 1, "2", False, False, False, None, _now()))
    cases: list[tuple[tuple[str, ...], bytes, str]] = [
        (("add", "anna@nas"), b"long enough", "An account with this email address already exists."),
        (("add", "dora@nas"), b"short", "A password has at least 8 characters"),
        (("add", "dora@nas"), b"", "A password has at least 8 characters"),
        (("add", "dora@nas"), b"\xff" * 10, "The password is not in UTF-8."),
        (("add", "dora@nas"), b"x" * 100_000, "at most 1,024."),
        (("disable", "dora@nas"), b"", "There is no account dora@nas. `seekable account list` prints all."),
        (("remove", "anna@nas", "--yes"), b"", "This is the last administrator who can log in."),
        (("remove", "bert@nas"), b"", "Nothing was deleted"),
        (("remove", "bert@nas"), b"anna@nas\n", "Nothing was deleted"),
        (("remove", "bert@nas", "--keep-files", "--to", "dora@nas"), b"bert@nas\n", "There is no account"),
        (("demote", "anna@nas"), b"", "This is the last administrator who can log in."),
        (("promote", "dora@nas"), b"", "There is no account dora@nas. `seekable account list` prints all."),
    ]
    for arguments, given, expected in cases:
        result = run(*arguments, given=given)
        assert result.returncode == (2 if "--to names" in expected else 1), result
        assert result.stderr.startswith("Error: ")
        assert expected in result.stderr
        assert result.stderr.count("\n") == 1
    assert store.count() == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("add", "anna"), "This is not an email address."),
        (("add",), "Missing argument 'EMAIL'"),
        (("disable", "anna@nas", "bert@nas"), "unexpected extra argument"),
        (("quota", "anna@nas", "much"), "is not a size"),
        (("remove", "anna@nas", "--to", "bert@nas"), "--to needs --keep-files."),
        (("remove", "anna@nas", "--keep-files", "--to", "ANNA@nas"), "--to names the account that is to be"),
        (("remove", "anna@nas", "--keep-files", "--to", "bert"), "This is not an email address."),
        (("remove", "anna@nas", "--json"), "--json and --quiet need --yes"),
        (("list", "--yaml"), "No such option"),
    ],
)
def test_wrong_usage_has_exit_status_2(run: Run, arguments: tuple[str, ...], words: str) -> None:
    result = run(*arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert words in " ".join(result.stderr.split())


CHANGES: list[tuple[tuple[str, ...], str, dict[str, object]]] = [
    (("add", "cleo@nas"), "cleo@nas can log in.", {"email": "jsoncleo@nas"}),
    (("reset", "bert@nas"), "bert@nas has a new password. All its logins, tokens and links are", {}),
    (("disable", "bert@nas"), "bert@nas can no longer log in. Its files are kept.", {"disabled": True}),
    (("enable", "bert@nas"), "bert@nas can log in again.", {"disabled": False}),
    (("promote", "bert@nas"), "bert@nas is an administrator.", {"is_admin": True}),
    (("demote", "bert@nas"), "bert@nas is an ordinary account.", {"is_admin": False}),
    (("quota", "bert@nas", "10GiB"), "bert@nas may have 10.0GiB of files.", {"quota": 10 << 30}),
    (("quota", "bert@nas", "none"), "bert@nas has the quota of SEEKABLE_QUOTA.", {"quota": None}),
    (("rotate-key",), "Links are signed with a new key.", {}),
    (("remove", "bert@nas", "--yes"), "bert@nas can no longer log in.", {"files": 0, "kept_in": None}),
]
"""Changes in an order in which each is possible: the sentence, and fields of the JSON."""


def test_change_is_reported_in_a_sentence_or_json_or_not_at_all(run: Run, store: AccountStore) -> None:
    """Three runs in a row: each change may be repeated, except that an account exists once."""
    store.add(Account("1", "anna@nas", "", 1, "1", True, False, False, None, _now()))
    store.add(Account("2", "bert@nas", "", 1, "2", False, False, False, None, _now()))

    def run_with(option: str, arguments: tuple[str, ...]) -> str:
        is_new = arguments[0] == "add"
        others = (f"{option.strip('-')}{arguments[1]}",) if is_new and option else arguments[1:]
        done = run(arguments[0], *others, *filter(None, [option]), given=b"long enough\n")
        assert (done.returncode, done.stderr) == (0, ""), done
        return done.stdout

    for arguments, sentence, changed in CHANGES:
        assert sentence in run_with("", arguments)
        (line,) = run_with("--json", arguments).splitlines()
        assert json.loads(line).items() >= changed.items()
        assert run_with("--quiet", arguments) == ""


def test_account_that_is_being_deleted_cannot_be_changed(run: Run, store: AccountStore) -> None:
    store.add(Account("1", "anna@nas", "", 1, "1", True, False, False, None, _now()))
    store.add(Account("2", "bert@nas", "", 1, "2", False, False, False, None, _now()))
    store.mark_leaving("2")
    before = store.get("2")
    for command in ("enable", "disable", "reset", "promote", "demote", "quota"):
        size = ("5GB",) if command == "quota" else ()
        refused = run(command, "bert@nas", *size, given=b"long enough\n")
        assert (refused.returncode, refused.stdout) == (1, "")
        assert refused.stderr.startswith("Error: bert@nas is being deleted. ")
        assert store.get("2") == before


def test_list_prints_objects_or_addresses_for_scripts(run: Run, store: AccountStore) -> None:
    store.add(Account("1", "anna@nas", "", 1, "", True, False, False, None, _now()))
    store.add(Account("2", "bert@nas", "", 1, "2", False, True, False, 5, _now()))
    anna, bert = map(json.loads, run("list", "--json").stdout.splitlines())
    assert list(anna) == ["email", "id", "is_admin", "disabled", "leaving", "quota", "created_at", "files"]
    assert (anna["email"], anna["is_admin"], anna["quota"]) == ("anna@nas", True, None)
    assert (bert["disabled"], bert["quota"]) == (True, 5)
    assert bert["files"].endswith("/libraries/2")
    assert run("list", "--quiet").stdout == "anna@nas\nbert@nas\n"
    assert json.loads(run("quota", "bert@nas", "--json").stdout) == bert


def _now() -> Any:
    from app.accounts.models import now

    return now()


def test_quota_shows_and_sets_limit(run: Run, store: AccountStore) -> None:
    store.add(Account("1", "anna@nas", "", 1, "1", True, False, False, None, _now()))
    for size, expected in (("500MB", 500_000_000), ("0", 0), ("none", None)):
        assert run("quota", "anna@nas", size).returncode == 0
        account = store.get("1")
        assert account is not None
        assert account.quota == expected
    assert run("quota", "anna@nas").stdout == "-\n"
    for size in ("much", "5 parsecs", "9" * 400, "99999999PiB"):
        result = run("quota", "anna@nas", size)
        assert result.returncode == 2
        assert "is not a size. Examples: 500MB, 10GiB." in result.stderr


def test_invite_prints_sign_up_address(run: Run, store: AccountStore) -> None:
    made = run("invite")
    assert made.stdout.count("\n") == 1
    assert made.stderr.startswith("One person can sign up there until 20")
    assert list(json.loads(run("invite", "--json").stdout)) == ["url", "expires_at"]
    prefixes = {
        "http://127.0.0.1:8123/": {"port": 8123},
        "https://a.example/x/": {"base_url": "https://a.example/x"},
    }
    for prefix, setting in prefixes.items():
        url = run("invite", **setting).stdout.strip()
        assert url.startswith(f"{prefix}sign-up?invite=")
        secret = url.rpartition("=")[2]
        assert len(secret) >= 43
        assert hashlib.sha256(secret.encode()).hexdigest() in {invite.hash for invite in store.invites.list()}
    assert run("invite", sign_up="closed").returncode == 2
    off = run("invite", access="open")
    assert off.returncode == 2
    assert "Accounts are off" in off.stderr
    store.announce("http://127.0.0.1:9123")
    assert run("invite", port=8123).stdout.startswith("http://127.0.0.1:9123/sign-up?invite=")
    assert run("invite", base_url="https://a.example").stdout.startswith("https://a.example/sign-up?")


def test_folder_option_names_library_of_server(tmp_path: Path) -> None:
    """As after `seekable serve FOLDER --access accounts`, in another working directory."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with running(tmp_path / "server", access="accounts") as server:
        without = {key: value for key, value in os.environ.items() if not key.startswith("SEEKABLE_")}

        def run(*words: str, **settings: str) -> "subprocess.CompletedProcess[str]":
            folder = ("--folder", str(server.files))
            given = f"{PASSWORD}\n".encode()
            return completed(
                "account", *words, *folder, folder=elsewhere, environment=without | settings, given=given
            )

        assert run("invite").stdout.startswith(f"{server.url}/sign-up?invite=")
        added = run("add", "anna@nas")
        assert (added.stdout, added.stderr) == ("anna@nas can log in, as an administrator.\n", "")
        assert run("list", "-q").stdout == "anna@nas\n"
        with server.client() as http:
            login = {"email": "anna@nas", "password": PASSWORD}
            assert http.post("/login", json=login).status_code == 200
        assert run("list", SEEKABLE_STORAGE="gridfs").returncode == 2
    assert [*elsewhere.iterdir()] == []


def test_invite_prints_address_of_running_server(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"access": "accounts", "sign_up": "invite"}
    with running(tmp_path / "server", **settings) as server:  # on a port of its option, not of its setting
        options = environment(server.settings)
        made = completed("account", "invite", folder=tmp_path, environment=options)
        assert made.stdout.startswith(f"{server.url}/sign-up?invite=")
        with server.client() as http:
            assert http.get(made.stdout.strip()).status_code == 200


def test_rotate_key_keeps_newest_two_keys(run: Run, store: AccountStore) -> None:
    first = SigningKey("first", "secret", _now())
    store.signing_keys.rotate(first, keep=[])
    assert run("rotate-key").returncode == 0
    second, old = store.signing_keys.list()
    assert old == first
    assert run("rotate-key").returncode == 0
    assert store.signing_keys.list()[1:] == [second]


ON_TERMINAL = """
import os, sys
os.setsid()  # without a controlling terminal: the program can read from the given one only
sys.stdin, sys.stdout, sys.stderr = (open(number, mode, closefd=False) for number, mode in enumerate("rww"))
"""
"""Code that opens the streams as a new interpreter does; those of a fork were opened on pipes."""


def test_add_prompts_for_password_twice_without_echo(tmp_path: Path) -> None:
    """At a terminal."""
    settings = {"files_dir": tmp_path / "files", "access": "accounts"}
    controller, terminal = pty.openpty()
    path = Path(os.ttyname(terminal))
    process = Command(
        *("account", "add", "anna@nas"),
        folder=tmp_path,
        given=str(path),
        output=path,
        errors=path,
        environment=environment(settings),
        code=ON_TERMINAL + COMMAND,
    )
    output = b""
    answers = iter((b"long enough\n", b"mistyped it\n", b"long enough\n", b"long enough\n"))
    deadline = time.monotonic() + 20
    while b"can log in" not in output and time.monotonic() < deadline:
        output += os.read(controller, 4096)
        if output.rstrip(b"\r\n ").endswith((b"Password:", b"Repeat the password:")):
            os.write(controller, next(answers))
            output += b"|"
    assert process.wait(10) == 0
    os.close(controller)
    os.close(terminal)
    assert b"long enough" not in output
    assert b"do not match" in output
    with open_accounts(Settings(_env_file=None, **settings), create=False) as store:
        anna = store.by_email("anna@nas")
    assert anna is not None
    assert Passwords().match(anna.password, "long enough")


@BOTH
def test_remove_keeps_ignore_patterns_of_server(
    run: Run, store: AccountStore, settings: dict[str, Any]
) -> None:
    """The command may run without the server's SEEKABLE_IGNORE."""
    store.add(Account("1", "anna@nas", "", 1, "1", True, False, False, None, _now()))
    store.add(Account("2", "bert@nas", "", 1, "2", False, False, False, None, _now()))

    async def shown(serving: bool) -> list[str]:
        chosen = Settings(_env_file=None, ignore="*.tmp", **settings)
        async with open_stores(chosen, serving=serving) as stores:
            if serving:
                async with stores.storage.stage() as staged:
                    await stores.storage.commit(Key.at("", "film.mp4.part"), staged, content_type="a/b")
            page = await stores.storage.page(Listing("", recursive=True), cursor=None, limit=9)
            return [info.key.path for info in page.items]

    assert asyncio.run(shown(serving=True)) == ["film.mp4.part"]
    assert run("remove", "bert@nas", "--yes").returncode == 0
    assert asyncio.run(shown(serving=False)) == ["film.mp4.part"]
