"""`seekable doctor`: its findings for given settings and status, and for real folders and databases."""

import json
import os
import platform
import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from socket import create_server, gethostname
from threading import Event
from typing import Any

import pytest
from sqlalchemy import text

from app.cli.doctor import diagnose, summarize, within
from app.cli.findings import (
    RULES,
    Finding,
    Level,
    check_access,
    check_database,
    check_folder,
    check_settings,
)
from app.database.doctor_checks import (
    NEEDED_ACTIONS,
    DatabaseStatus,
    FolderStatus,
    missing_rights,
    probe_databases,
    probe_folder,
)
from app.database.filesystem.opening import open_database
from app.settings import Settings
from tests.conftest import BACKENDS
from tests.support import find_external_addresses, mongo, mounted, postgres
from tests.support.forking import completed

FACT, GOOD, NOTE, FIX = Level
PLENTY = 1 << 50

FOLDER = FolderStatus(
    exists=True,
    writable=True,
    hard_links=True,
    locks=True,
    sendfile=True,
    free_bytes=PLENTY,
    fs_type="ext4",
    fsync_s=0.01,
)
DATABASE = DatabaseStatus("The database")


def settings(**chosen: Any) -> Settings:
    return Settings(_env_file=None, **chosen)


def sentences(findings: Any) -> list[tuple[Level, str]]:
    return [(finding.level, finding.sentence) for finding in findings]


ACCOUNTS = {"access": "accounts"}
PROXY = {"trusted_proxies": ("10.0.0.0/8",)}
SAFE: list[dict[str, Any]] = [
    {},
    {"host": "localhost"},
    {"host": "::1"},
    {**ACCOUNTS, **PROXY, "host": "0.0.0.0", "base_url": "https://media.example.org"},
    {**ACCOUNTS, **PROXY, "host": "0.0.0.0", "base_url": "http://nas.local:8000"},
    {**ACCOUNTS, "base_url": "http://192.168.1.2:8000"},
    {**ACCOUNTS, "host": "192.168.1.2"},
    {"access": "open", "host": "0.0.0.0"},
    {**ACCOUNTS, "sign_up": "open", "quota": 1 << 30},
    {**ACCOUNTS, "cors_origins": ("*",)},
    {**ACCOUNTS, "cache_control": "private, no-cache"},
    {"access": "open", "cors_origins": ("https://app.example.org",)},
    {"storage": "gridfs", "mongodb_url": "mongodb://127.0.0.1/x"},
]
RISKY: list[tuple[dict[str, Any], Level, str]] = [
    ({"host": "0.0.0.0"}, FIX, "`seekable serve` refuses to start"),
    ({**ACCOUNTS, "base_url": "http://media.example.org"}, FIX, "passwords are sent unencrypted"),
    ({**ACCOUNTS, "base_url": "http://203.0.114.1"}, FIX, "passwords are sent unencrypted"),
    ({**ACCOUNTS, "host": "0.0.0.0"}, NOTE, "put a proxy in front"),
    ({"cors_origins": ("*",)}, FIX, "SEEKABLE_CORS_ORIGINS=*"),
    ({"allowed_hosts": ("*",)}, FIX, "DNS rebinding"),
    ({"base_url": "https://media.example.org"}, NOTE, "X-Forwarded-For"),
    ({**ACCOUNTS, "host": "0.0.0.0", "base_url": "https://a.example"}, NOTE, "count as one address"),
    ({**ACCOUNTS, "sign_up": "open"}, NOTE, "fill the disk"),
    ({**ACCOUNTS, "cache_control": "public, max-age=60"}, FIX, "shared caches"),
    ({"quota": 5}, NOTE, "no effect without SEEKABLE_ACCESS=accounts"),
    ({"storage": "gridfs", "files_dir": "x"}, NOTE, "no effect with SEEKABLE_STORAGE=gridfs"),
    ({"mongodb_url": "mongodb://127.0.0.1/x"}, FIX, "Set SEEKABLE_STORAGE=gridfs"),
    ({"session_idle_timeout": 9, "session_lifetime": 8}, NOTE, "has no effect"),
]


@pytest.mark.parametrize("chosen", SAFE)
def test_safe_settings_have_no_findings(chosen: dict[str, Any]) -> None:
    assert sentences(check_settings(settings(**chosen), (), float("inf"))) == []


@pytest.mark.parametrize(("chosen", "level", "words"), RISKY)
def test_risky_setting_has_one_finding(chosen: dict[str, Any], level: Level, words: str) -> None:
    ((found, sentence),) = sentences(check_settings(settings(**chosen), (), PLENTY))
    assert found is level
    assert words in sentence


def test_every_rule_has_a_test_case() -> None:
    assert {sentence for _, _, sentence in RULES} == {
        sentence
        for chosen, _, _ in RISKY
        for _, sentence in sentences(check_settings(settings(**chosen), (), PLENTY))
    }


@pytest.mark.parametrize(
    ("descriptors", "chosen", "levels"),
    [
        (920, {}, []),
        (919, {}, [NOTE]),
        (float("inf"), {}, []),
        (30_320, {"max_sockets": 10_000}, []),
        (30_319, {"max_sockets": 10_000}, [NOTE]),
        (30_320, {"max_connections": 9_999}, [NOTE]),
        (30_320, {"max_connections": 10_001}, [FIX]),
        (3_320, {"max_connections": 1_001, "max_sockets": 10}, [FIX]),
        (3_320, {"max_connections": 1_000, "max_sockets": 10}, []),
    ],
)
def test_descriptor_limit_must_suffice_for_connections(
    descriptors: float, chosen: dict[str, object], levels: list[Level]
) -> None:
    found = sentences(check_settings(settings(**chosen), (), descriptors))
    assert [level for level, _ in found] == levels


@pytest.mark.parametrize(
    ("status", "chosen", "level", "words"),
    [
        (FOLDER, {}, GOOD, "can be written"),
        (replace(FOLDER, writable=False), {}, FIX, "cannot be written"),
        (replace(FOLDER, writable=False), {}, FIX, "SEEKABLE_READ_ONLY=true"),
        (replace(FOLDER, writable=False, read_only=True), {}, NOTE, "on a read-only file system"),
        (replace(FOLDER, writable=False, read_only=True), {"read_only": True}, GOOD, "served read-only"),
        (replace(FOLDER, exists=False, read_only=True), {"read_only": True}, FIX, "cannot be read"),
        (
            replace(FOLDER, writable=False, read_only=True),
            {"read_only": True, **ACCOUNTS},
            NOTE,
            "accounts of its own",
        ),
        (replace(FOLDER, exists=False), {}, FACT, "does not exist"),
        (replace(FOLDER, exists=False), {}, GOOD, "can be created, and has"),
        (replace(FOLDER, hard_links=False), {}, FIX, "no hard links"),
        (replace(FOLDER, locks=False), {}, FIX, "no file locks"),
        (replace(FOLDER, exposed=True), {}, FIX, "`chmod 700` it"),
        (replace(FOLDER, ignores_case=True), {}, NOTE, "ignores case"),
        (replace(FOLDER, sendfile=False), {}, FIX, "SEEKABLE_SENDFILE=false"),
        (replace(FOLDER, sendfile=False), {"sendfile": False}, GOOD, "can be written"),
        (replace(FOLDER, fs_type="nfs4"), {}, FIX, "PostgreSQL"),
        (replace(FOLDER, fs_type="nfs4"), {"database_url": "postgresql:///x"}, NOTE, "lookupcache=none"),
        (
            replace(FOLDER, fs_type="nfs4", mount_options=frozenset({"rw", "lookupcache=none"})),
            {"database_url": "postgresql:///x"},
            GOOD,
            "can be written",
        ),
        (replace(FOLDER, free_bytes=5 << 20), {}, FIX, "Free some space"),
        (replace(FOLDER, free_bytes=5 << 30), {}, GOOD, "has 5.0GiB free"),
        (replace(FOLDER, free_bytes=5 << 30), {"max_upload_size": 6 << 30}, NOTE, "SEEKABLE_MAX_UPLOAD_SIZE"),
        (replace(FOLDER, fs_type="tmpfs"), {}, FIX, "in memory"),
        (replace(FOLDER, mount_options=frozenset({"rw", "nobarrier"})), {}, FIX, "mounted with nobarrier"),
        (replace(FOLDER, fsync_s=0.000001), {}, NOTE, "fsync returns at once"),
    ],
)
def test_folder_status_becomes_findings(
    status: FolderStatus, chosen: dict[str, Any], level: Level, words: str
) -> None:
    found = sentences(check_folder(settings(**chosen), status))
    assert any(one is level and words in sentence for one, sentence in found), found
    assert {one for one, _ in found} <= {level, GOOD, *([] if status.exists else [FACT])}


@pytest.mark.parametrize(
    ("status", "chosen", "level", "words"),
    [
        (DATABASE, {}, GOOD, "up to date"),
        (replace(DATABASE, error="No answer."), {}, FIX, "The database: No answer."),
        (replace(DATABASE, exists=False), {}, FACT, "no library yet"),
        (replace(DATABASE, migration="due"), {}, NOTE, "migrated at the next start"),
        (replace(DATABASE, migration="newer"), {}, FIX, "newer Seekable"),
        (replace(DATABASE, missing_indexes=("media.path",)), {}, FIX, "media.path"),
        (replace(DATABASE, missing_rights=("insert", "remove")), {}, FIX, "may not insert, remove"),
        (replace(DATABASE, clock_skew_s=-1.9), {}, GOOD, "up to date"),
        (replace(DATABASE, clock_skew_s=-5), {}, NOTE, "-5 s"),
        (replace(DATABASE, clock_skew_s=60), {}, FIX, "+60 s"),
        (replace(DATABASE, replicated=False), {}, NOTE, "not a replica set"),
        (
            replace(DATABASE, replicated=False),
            {},
            NOTE,
            "WebSockets receive only changes of their own process",
        ),
        (replace(DATABASE, exposed_files=("/films/x.db",)), {}, FIX, "rights to /films/x.db"),
        (replace(DATABASE, free_bytes=5 << 30), {}, GOOD, "has 5.0GiB free"),
        (replace(DATABASE, free_bytes=5 << 20), {}, FIX, "has only 5.0MiB free"),
        (replace(DATABASE, requires_login=False), {}, NOTE, "requires no login"),
        (replace(DATABASE, accounts=0), {**ACCOUNTS, "sign_up": "closed"}, FIX, "seekable account add"),
        (replace(DATABASE, accounts=0), ACCOUNTS, GOOD, "up to date"),
        (replace(DATABASE, accounts=1), {**ACCOUNTS, "sign_up": "closed"}, GOOD, "up to date"),
    ],
)
def test_database_status_becomes_findings(
    status: DatabaseStatus, chosen: dict[str, Any], level: Level, words: str
) -> None:
    found = sentences(check_database(settings(**chosen), status))
    assert any(one is level and words in sentence for one, sentence in found), found
    assert {one for one, _ in found} <= {level, GOOD}


@pytest.mark.parametrize(
    ("privileges", "missing"),
    [
        ([], sorted(NEEDED_ACTIONS)),
        ([{"resource": {"db": "films", "collection": ""}, "actions": [*NEEDED_ACTIONS]}], []),
        ([{"resource": {"db": "", "collection": ""}, "actions": [*NEEDED_ACTIONS]}], []),
        ([{"resource": {"anyResource": True}, "actions": [*NEEDED_ACTIONS]}], []),
        (
            [{"resource": {"db": "other", "collection": ""}, "actions": [*NEEDED_ACTIONS]}],
            sorted(NEEDED_ACTIONS),
        ),
        (
            [{"resource": {"db": "films", "collection": "media"}, "actions": [*NEEDED_ACTIONS]}],
            sorted(NEEDED_ACTIONS),
        ),
        ([{"resource": {"cluster": True}, "actions": [*NEEDED_ACTIONS]}], sorted(NEEDED_ACTIONS)),
        (
            [{"resource": {"db": "films", "collection": ""}, "actions": [*NEEDED_ACTIONS - {"remove"}]}],
            ["remove"],
        ),
    ],
)
def test_missing_rights_counts_only_rights_on_all_collections(
    privileges: list[dict[str, Any]], missing: list[str]
) -> None:
    assert missing_rights(privileges, "films") == tuple(missing)


def test_advised_role_has_all_rights() -> None:
    role = {"role": "readWrite", "db": "films"}
    client = mongo.database(mongo.shared().url("films")).client
    (found,) = client.admin.command({"rolesInfo": role, "showPrivileges": True})["roles"]
    assert missing_rights(found["privileges"], "films") == ()


# Real folders and databases


def test_probe_folder_leaves_no_trace(tmp_path: Path) -> None:
    status = probe_folder(tmp_path / "not" / "there")
    assert (status.exists, status.writable, status.hard_links, status.locks) == (False, True, True, True)
    assert status.free_bytes > 0
    assert status.fs_type
    assert [*tmp_path.iterdir()] == []


def test_probe_folder_reports_kind_and_state_of_file_system(tmp_path: Path) -> None:
    with mounted(tmp_path / "memory", "-t", "tmpfs", "-o", "size=1m", "tmpfs") as folder:
        status = probe_folder(folder)
        assert (status.fs_type, status.free_bytes <= 1 << 20, status.hard_links) == ("tmpfs", True, True)
        with suppress(OSError), (folder / "fill").open("wb", buffering=0) as fill:
            while fill.write(bytes(4096)):
                pass
        status = probe_folder(folder)
        assert (status.writable, status.full) == (True, True)
    with mounted(tmp_path / "fixed", "-t", "tmpfs", "-o", "ro", "tmpfs") as folder:
        status = probe_folder(folder)
        assert (status.writable, status.read_only, status.exists) == (False, True, True)


def test_probe_folder_writes_nothing_when_served_read_only(tmp_path: Path) -> None:
    before = tmp_path.stat().st_mtime_ns
    status = probe_folder(tmp_path, read_only=True)
    assert (status.writable, status.read_only, status.exists) == (False, True, True)
    assert tmp_path.stat().st_mtime_ns == before
    assert not probe_folder(tmp_path / "none", read_only=True).exists


def without_settings() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith("SEEKABLE_")}


def doctor(folder: Path, **chosen: object) -> tuple[int, list[str]]:
    environment = without_settings()
    # Few descriptors and a folder in memory are findings of the test machine, not of the case.
    chosen = {"max_sockets": 100} | chosen
    environment |= {f"SEEKABLE_{key.upper()}": str(value) for key, value in chosen.items()}
    done = completed("doctor", folder=folder, environment=environment)
    assert "Traceback" not in done.stderr, done.stderr
    found = [line for line in done.stdout.splitlines() if "is in memory" not in line]
    assert done.returncode == (2 if done.stderr else 1 if "fix: " in done.stdout else 0)
    return int(any(line.startswith("fix: ") for line in found) or bool(done.stderr)), found


def lines(found: list[str], level: str) -> list[str]:
    return [line.partition(": ")[2] for line in found if line.startswith(f"{level}: ")]


def test_doctor_lists_fixes_and_changes_nothing(tmp_path: Path) -> None:
    exit_status, found = doctor(tmp_path)
    assert (exit_status, lines(found, "fix")) == (0, [])
    assert [*tmp_path.iterdir()] == []
    exit_status, found = doctor(tmp_path, prot=1, host="0.0.0.0", files_dir="/proc/films")
    assert exit_status == 1
    wanted = ("SEEKABLE_PORT", "refuses", "cannot be written")
    for line, words in zip(lines(found, "fix"), wanted, strict=True):
        assert words in line
    exit_status, found = doctor(tmp_path, port="many")
    assert (exit_status, found[-1]) == (1, "1 thing to fix.")
    assert lines(found, "fix") == [
        "SEEKABLE_PORT: Input should be a valid integer, unable to parse string as an integer."
    ]


def test_home_user_reads_no_alarm(tmp_path: Path) -> None:
    for has_library in (False, True):
        if has_library:
            completed("migrate", folder=tmp_path, environment=without_settings())
        exit_status, found = doctor(tmp_path)
        assert (exit_status, lines(found, "fix"), lines(found, "note")) == (0, [], [])
        assert not any("PostgreSQL" in line for line in found)
    facts = lines(found, "fact")
    assert facts[0] == f"Seekable {version('seekable')} runs on Python {platform.python_version()}."
    assert facts[1].startswith("Only this machine may connect, at http://127.0.0.1:8000 (host names: ")
    assert facts[-1].endswith("This version of Seekable needs neither.")
    assert any("can be written, and has" in line and line.endswith("free.") for line in lines(found, "good"))


@pytest.mark.parametrize(
    ("chosen", "level", "words"),
    [
        ({"port": 9000}, FACT, "Only this machine may connect, at http://127.0.0.1:9000 (host names: "),
        ({"host": "::1"}, FACT, "at http://[::1]:8000 (host names: localhost"),
        (
            {"allowed_hosts": ("nas.lan", "*.example.org")},
            FACT,
            "(host names: *.example.org, localhost, nas.lan",
        ),
        ({"access": "open", "allowed_hosts": ("*",)}, FACT, "(host names: any)"),
        ({"access": "open"}, FACT, "only this machine can connect"),
        ({"access": "open"}, FACT, "For others, set SEEKABLE_HOST=0.0.0.0"),
        ({"access": "open", "host": "0.0.0.0"}, NOTE, "Everyone who can connect may read, upload and delete"),
        (
            {"access": "open", "host": "0.0.0.0", "base_url": "https://tv.example"},
            NOTE,
            "where a proxy leads to port 8000 of all addresses (host names: ",
        ),
        (
            {"access": "open", "host": "0.0.0.0", "read_only": True},
            FACT,
            "Everyone who can connect may read ",
        ),
        (ACCOUNTS, FACT, "Every user with an account may connect, at http://127.0.0.1:8000 "),
        (
            {**ACCOUNTS, "base_url": "https://tv.example"},
            FACT,
            "at https://tv.example, where a proxy leads to 127.0.0.1:8000 (host names: localhost, ",
        ),
    ],
)
def test_access_is_one_sentence(chosen: dict[str, Any], level: Level, words: str) -> None:
    found = check_access(settings(**chosen))
    assert found.level is level
    sentence = found.sentence.replace(f"{gethostname().lower()}, ", "")
    assert words in sentence


@pytest.mark.skipif(not find_external_addresses(), reason="needs an address in a network")
def test_access_names_addresses_for_other_machines() -> None:
    sentence = check_access(settings(access="open", host="0.0.0.0")).sentence
    named = re.findall(r"http://(\S+):8000", sentence)
    assert named[:1] == find_external_addresses()


@pytest.mark.parametrize(
    ("levels", "verdict"),
    [
        ([], "Everything is fine."),
        ([FACT, GOOD], "Everything is fine."),
        ([NOTE], "Nothing to fix, 1 note."),
        ([FIX], "1 thing to fix."),
        ([FIX, NOTE, FIX, NOTE, NOTE], "2 things to fix, 3 notes."),
    ],
)
def test_verdict_counts_fixes_and_notes(levels: list[Level], verdict: str) -> None:
    assert summarize(Finding(level, "") for level in levels) == verdict


def test_doctor_prints_one_object_for_scripts(tmp_path: Path) -> None:
    environment = {**without_settings(), "SEEKABLE_PROT": "1", "SEEKABLE_MAX_SOCKETS": "100"}
    done = completed("doctor", "--json", folder=tmp_path, environment=environment)
    found = json.loads(done.stdout)
    assert (done.returncode, list(found)) == (1, ["version", "python", "findings", "verdict"])
    assert {"program", "access", "settings", "folder", "database", "media"} == {
        finding["subject"] for finding in found["findings"]
    }
    fix = {
        "level": "fix",
        "subject": "settings",
        "sentence": "There is no setting SEEKABLE_PROT (did you mean SEEKABLE_PORT?).",
    }
    assert fix in found["findings"]
    quiet = json.loads(completed("doctor", "--json", "-q", folder=tmp_path, environment=environment).stdout)
    assert {finding["level"] for finding in quiet["findings"]} == {"fix"}
    done = completed("doctor", "--quiet", folder=tmp_path, environment=environment)
    assert (done.returncode, done.stderr) == (1, "")
    assert f"fix: {fix['sentence']}" in done.stdout.splitlines()
    assert all(line.startswith("fix: ") for line in done.stdout.splitlines())


def test_probe_that_hangs_becomes_a_finding(tmp_path: Path) -> None:
    began = time.monotonic()
    (finding,) = within(0.1, "The folder", lambda: [Finding(GOOD, str(Event().wait(60)))])
    assert finding.level is FIX
    assert finding.sentence.startswith("The folder has not responded for 0.1 s.")
    assert time.monotonic() - began < 5
    assert within(5, "The folder", lambda: [Finding(GOOD, "It works.")]) == [Finding(GOOD, "It works.")]
    with pytest.raises(ZeroDivisionError):
        within(5, "The folder", lambda: [Finding(GOOD, str(1 / 0))])


@pytest.mark.parametrize("url", ["postgresql+psycopg://127.0.0.1:{}/films", "mongodb://127.0.0.1:{}/films"])
def test_silent_database_does_not_block_doctor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    """A server that accepts connections, and never sends a byte."""
    with create_server(("127.0.0.1", 0)) as silent:
        address = url.format(silent.getsockname()[1])
        monkeypatch.chdir(tmp_path)
        if address.startswith("mongodb"):
            monkeypatch.setenv("SEEKABLE_STORAGE", "gridfs")
            monkeypatch.setenv("SEEKABLE_MONGODB_URL", address)
        else:
            monkeypatch.setenv("SEEKABLE_DATABASE_URL", address)
        began = time.monotonic()
        sentences = [one.sentence for one in diagnose(timeout_s=0.5) if one.subject == "database"]
        assert sentences == ["The database has not responded for 0.5 s. Check its disk, network and server."]
        assert time.monotonic() - began < 10


Broken = Callable[[dict[str, Any]], str]


def newer(chosen: dict[str, Any]) -> str:
    from contextlib import ExitStack

    with ExitStack() as stack:
        database = open_database(settings(**chosen), stack)
        with database.writing() as session:
            session.execute(text("UPDATE alembic_version SET version_num = 'future'"))
            session.commit()
    return "newer Seekable"


def newer_documents(chosen: dict[str, Any]) -> str:
    mongo.database(chosen["mongodb_url"])["media.schema"].update_one({}, {"$inc": {"version": 1}})
    return "newer Seekable"


def unindexed(chosen: dict[str, Any]) -> str:
    mongo.database(chosen["mongodb_url"])["fs.chunks"].drop_indexes()
    return "fs.chunks.files_id_n"


@pytest.mark.parametrize(
    ("backend", "harm"),
    [
        ("filesystem", newer),
        ("postgresql", newer),
        ("gridfs", unindexed),
        ("gridfs", newer_documents),
    ],
)
def test_doctor_finds_fault_in_real_database(tmp_path: Path, backend: str, harm: Broken) -> None:
    chosen: dict[str, Any] = {"files_dir": tmp_path / "files", **BACKENDS[backend]()}
    if backend == "postgresql":
        chosen["database_url"] = postgres.shared().new_database()
    environment = {f"SEEKABLE_{key.upper()}": str(value) for key, value in chosen.items()}
    (before,) = probe_databases(settings(**chosen))
    assert (before.error, before.exists) == ("", False)
    migrated = completed("migrate", folder=tmp_path, environment={**os.environ, **environment})
    assert migrated.returncode == 0, migrated.stderr
    (status,) = probe_databases(settings(**chosen))
    assert (status.error, status.migration, status.missing_indexes) == ("", "done", ())
    assert abs(status.clock_skew_s) < 1
    assert (status.free_bytes is not None) == (backend == "gridfs")
    if backend == "gridfs":
        assert (status.replicated, status.requires_login) == (True, False)
        mongo.database(chosen["mongodb_url"])["media"].insert_one({})
    exit_status, found = doctor(tmp_path, **chosen)
    assert (exit_status, lines(found, "fix")) == (0, []), found
    words = harm(chosen)
    exit_status, found = doctor(tmp_path, **chosen)
    assert exit_status == 1
    (line,) = lines(found, "fix")
    assert words in line


@pytest.mark.parametrize(
    "chosen",
    [
        {"storage": "gridfs"},
        {"storage": "gridfs", "mongodb_url": "mongodb://127.0.0.1:1/films?serverSelectionTimeoutMS=100"},
        {"database_url": "postgresql+psycopg://127.0.0.1:1/films"},
        {"database_url": "nothing"},
    ],
    ids=["no-address", "mongodb", "postgresql", "no-url"],
)
def test_unreachable_database_is_one_finding(tmp_path: Path, chosen: dict[str, Any]) -> None:
    (status,) = probe_databases(settings(files_dir=tmp_path, **chosen))
    (finding,) = check_database(settings(**chosen), status)
    assert finding == Finding(FIX, f"{status.name}: {status.error}")
    assert status.error.endswith((".", "refused", "?")) or "refused" in status.error
