"""`seekable doctor`: problems of the settings, the folder and the databases, and how to fix them.

A finding is a note or a fix only if the reader can act on it, and its sentence then names the remedy.
"""

import platform
import re
import resource
import shutil
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from ipaddress import ip_address
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import click
from pydantic import ByteSize

from app.cli.options import Output, folder_argument, output_options
from app.database.doctor_checks import DatabaseStatus, FolderStatus, probe_databases, probe_folder
from app.http.addresses import is_loopback_host
from app.server.connection_limits import connections_within
from app.server.listen import authority, machine_hosts
from app.settings import ConfigurationError, Settings, env_file, override, read, unknown
from app.storage.types import RESERVED


class Level(Enum):
    FACT = "fact"
    GOOD = "good"
    NOTE = "note"
    FIX = "fix"


@dataclass(frozen=True)
class Finding:
    level: Level
    sentence: str
    subject: str = ""
    """The part that it is about, for scripts."""


_fact, _good, _note, _fix = (partial(Finding, level) for level in Level)


PROBE_TIMEOUT_S = 15.0
"""Seconds for the folder, and for the databases: a dead network share blocks system calls for ever."""

FEW_CONNECTIONS = 200
"""Open connections below which even a household may notice the limit."""

LOW_SPACE = 1 << 30
"""Free bytes below which a disk is nearly full, for a library of films."""

SKEW_S, BAD_SKEW_S = 2.0, 30.0
"""Seconds between two clocks that are worth a note, and that endanger leases."""

INSTANT_FSYNC_S = 0.00002
"""An fsync that takes fewer seconds did not reach a disk."""

IGNORES_CASE = (
    "is on a file system that ignores case: “film.mp4” and “FILM.mp4” cannot both be stored there. The "
    "spelling on the disk counts; a request with another spelling is answered 404, or 409 if it creates a "
    "file."
)
"""The message about such a folder, here and when the server starts."""

_WILDCARDS = {"0.0.0.0", "::", ""}
_IN_MEMORY = {"tmpfs", "ramfs"}
_NETWORK = {"nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "fuse.s3fs", "fuse.rclone"}
_NFS = {"nfs", "nfs4"}
_COHERENT = {"lookupcache=none", "noac"}
_NO_BARRIERS = {"nobarrier", "barrier=0", "fsync=nobarrier", "nosync"}


def _is_private(host: str) -> bool:
    """Return whether a host is in a private network, as far as its name or address shows."""
    try:
        return ip_address(host.strip("[]")).is_private
    except ValueError:
        return host == "localhost" or "." not in host or host.endswith((".local", ".lan", ".internal"))


def _is_in_private_network(host: str) -> bool:
    """Return whether a server that listens there can only be reached from a private network."""
    return host not in _WILDCARDS and _is_private(host)


def _is_unencrypted(settings: Settings) -> bool:
    """Return whether passwords cross public networks without encryption."""
    base = urlsplit(settings.base_url or "")
    return base.scheme == "http" and not _is_private(base.hostname or "")


def _are_set(*names: str) -> Callable[[Settings], bool]:
    return lambda settings: bool(settings.model_fields_set & set(names))


_Rule = tuple[Level, Callable[[Settings], bool], str]

RULES: tuple[_Rule, ...] = (
    (
        Level.FIX,
        lambda s: s.access == "loopback" and not is_loopback_host(s.host),
        "SEEKABLE_HOST is not a loopback address, but SEEKABLE_ACCESS is loopback: `seekable serve` refuses "
        "to start. Set SEEKABLE_ACCESS=accounts, or open.",
    ),
    (
        Level.FIX,
        lambda s: s.access == "accounts" and _is_unencrypted(s),
        "SEEKABLE_BASE_URL begins with http://: passwords are sent unencrypted. Put an https proxy in front "
        "of the server, and set SEEKABLE_BASE_URL to its address.",
    ),
    (
        Level.NOTE,
        lambda s: s.access == "accounts" and not _is_in_private_network(s.host) and s.base_url is None,
        "Accounts without SEEKABLE_BASE_URL=https://…: over plain http, passwords are sent unencrypted. "
        "Beyond a private network, put a proxy in front of the server.",
    ),
    (
        Level.FIX,
        lambda s: s.access != "accounts" and "*" in s.cors_origins,
        "SEEKABLE_CORS_ORIGINS=* without accounts: every site that you visit may upload and delete here. "
        "List the sites that you trust.",
    ),
    (
        Level.FIX,
        lambda s: s.access == "loopback" and "*" in s.allowed_hosts,
        "SEEKABLE_ALLOWED_HOSTS=* with SEEKABLE_ACCESS=loopback: every site may reach this server through "
        "your browser (DNS rebinding). List the hosts.",
    ),
    (
        Level.NOTE,
        lambda s: s.access == "loopback" and s.base_url is not None,
        "SEEKABLE_BASE_URL with SEEKABLE_ACCESS=loopback: the server refuses clients of a proxy that sends "
        "X-Forwarded-For. Set SEEKABLE_ACCESS=accounts, or open.",
    ),
    (
        Level.NOTE,
        lambda s: s.base_url is not None and not (is_loopback_host(s.host) or _are_set("trusted_proxies")(s)),
        "SEEKABLE_BASE_URL without SEEKABLE_TRUSTED_PROXIES: all clients of a proxy on another machine count "
        "as one address. Set SEEKABLE_TRUSTED_PROXIES to the proxy's address or network.",
    ),
    (
        Level.NOTE,
        lambda s: s.access == "accounts" and s.sign_up == "open" and s.quota is None,
        "SEEKABLE_SIGN_UP=open without SEEKABLE_QUOTA: anyone may create an account and fill the disk.",
    ),
    (
        Level.FIX,
        lambda s: s.access == "accounts" and "public" in s.cache_control.replace(" ", "").split(","),
        "SEEKABLE_CACHE_CONTROL contains public, with accounts: shared caches would serve one account's "
        "files to others. Remove public.",
    ),
    (
        Level.NOTE,
        lambda s: s.access != "accounts" and _are_set("sign_up", "users_url", "quota")(s),
        "SEEKABLE_SIGN_UP, SEEKABLE_USERS_URL and SEEKABLE_QUOTA have no effect without "
        "SEEKABLE_ACCESS=accounts.",
    ),
    (
        Level.NOTE,
        lambda s: s.storage == "gridfs" and _are_set("files_dir", "database_url")(s),
        "SEEKABLE_FILES_DIR and SEEKABLE_DATABASE_URL have no effect with SEEKABLE_STORAGE=gridfs.",
    ),
    (
        Level.FIX,
        lambda s: s.storage == "filesystem" and _are_set("mongodb_url", "users_url")(s),
        "SEEKABLE_MONGODB_URL and SEEKABLE_USERS_URL have no effect. Set SEEKABLE_STORAGE=gridfs, or remove "
        "them.",
    ),
    (
        Level.NOTE,
        lambda s: s.session_idle_timeout > s.session_lifetime,
        "SEEKABLE_SESSION_IDLE_TIMEOUT is longer than SEEKABLE_SESSION_LIFETIME, and so has no effect.",
    ),
)
"""Checks that need only the settings: level, condition, message."""


def check_settings(settings: Settings, unknown: Iterable[str], descriptors: float) -> Iterator[Finding]:
    """Yield findings; `unknown` resemble settings, `descriptors` is the limit of open files."""
    for name in unknown:
        yield _fix(f"There is no setting {name}.")
    for level, applies, sentence in RULES:
        if applies(settings):
            yield Finding(level, sentence)
    possible = descriptors if descriptors == float("inf") else connections_within(int(descriptors))
    if settings.max_connections is not None and settings.max_connections > possible:
        yield _fix(
            f"A process may open {descriptors:.0f} files here (`ulimit -Hn`), too few for "
            f"SEEKABLE_MAX_CONNECTIONS={settings.max_connections}. Raise the limit, or set {possible:.0f}."
        )
    limit = settings.max_connections or possible
    wanted = settings.max_sockets if _are_set("max_sockets", "max_connections")(settings) else FEW_CONNECTIONS
    if limit < wanted:
        yield _note(
            f"At most {limit:.0f} connections may be open at once, fewer than "
            f"SEEKABLE_MAX_SOCKETS={settings.max_sockets}. For more WebSockets, raise `ulimit -Hn` or "
            "SEEKABLE_MAX_CONNECTIONS."
        )


def check_access(settings: Settings) -> Finding:
    """Return who may connect, and at which address."""
    place = _place(settings)
    may = "may read" if settings.read_only else "may read, upload and delete"
    if settings.access == "loopback":
        return _fact(f"Only this machine may connect, {place}.")
    if settings.access == "accounts":
        return _fact(f"Every user with an account may connect, {place}.")
    if settings.base_url is None and is_loopback_host(settings.host):
        return _fact(
            f"Everyone {may} without an account, but only this machine can connect, {place}. For others, set "
            "SEEKABLE_HOST=0.0.0.0, or put a proxy in front of the server."
        )
    sentence = f"Everyone who can connect {may} without an account, {place}."
    if settings.read_only:
        return _fact(sentence)
    return _note(f"{sentence} To require an account, set SEEKABLE_ACCESS=accounts.")


def _place(settings: Settings) -> str:
    """Return the addresses at which clients connect, and the host names that they may use."""
    is_wildcard = settings.host in _WILDCARDS
    port = settings.port
    listens = f"port {port} of all addresses" if is_wildcard else authority(settings.host, port)
    if settings.base_url is not None:
        listens = f"{settings.base_url}, where a proxy leads to {listens}"
    elif not is_wildcard:
        listens = f"http://{listens}"
    elif hosts := machine_hosts(socket.AF_INET6 if settings.host == "::" else socket.AF_INET):
        listens = " and ".join(f"http://{authority(host, port)}" for host in hosts)
    return f"at {listens} (host names: {_names(settings)})"


def _names(settings: Settings) -> str:
    # Imported here, because no other command needs the web framework.
    from app.resources.middleware.host_guard import HostGuard, names_of_machine  # noqa: PLC0415

    hosts = (*settings.allowed_hosts, *names_of_machine(socket.gethostname()))
    guard = HostGuard.of(any_peer=True, base_url=settings.base_url, hosts=hosts, origins=())
    if "*" in guard.hosts:
        return "any"
    return ", ".join([*sorted(guard.hosts - {"127.0.0.1", "[::1]"}), "its IP addresses"])


def describe_program() -> Finding:
    return _fact(f"Seekable {version('seekable')} runs on Python {platform.python_version()}.")


def describe_media_tools() -> Finding:
    """Return which programs for films are installed."""
    return _fact(
        f"ffmpeg: {_ffmpeg_version() or 'not found'}. PyAV: {_pyav_version() or 'not found'}. "
        "This version of Seekable needs neither."
    )


def _ffmpeg_version() -> str | None:
    if (path := shutil.which("ffmpeg")) is None:
        return None
    try:
        done = subprocess.run([path, "-version"], check=False, capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        found = None
    else:
        found = re.match(r"ffmpeg version (\S+)", done.stdout)
    return found[1] if found else "found, but it does not start"


def _pyav_version() -> str | None:
    try:
        return version("av")
    except PackageNotFoundError:
        return None


def _exposed(path: str, mode: str) -> str:
    return (
        f"Other users of this machine have rights to {path}. Start the server again, or `chmod {mode}` it. "
        "If its file system has no permissions, mount it so that only this user may enter."
    )


def check_folder(settings: Settings, folder: FolderStatus) -> Iterator[Finding]:
    where = f"SEEKABLE_FILES_DIR={settings.files_dir}"
    if folder.read_only:
        yield from _check_read_only(settings, folder, where)
    elif not folder.writable:
        yield _fix(
            f"{where} cannot be written or created by this user. To serve it as it is, set "
            "SEEKABLE_READ_ONLY=true."
        )
    elif folder.full:
        yield _fix(f"{where} is full: no file can be stored. Free some space.")
    else:
        yield from _check_abilities(settings, folder, where)
        yield from _check_network(settings, folder, where)
        yield from _check_space(settings, folder, where)
        yield from _check_durability(folder, where)


def _check_abilities(settings: Settings, folder: FolderStatus, where: str) -> Iterator[Finding]:
    if not folder.exists:
        yield _fact(f"{where} does not exist; `seekable serve` creates it.")
    if not folder.hard_links:
        yield _fix(
            f"{where} has no hard links ({folder.fs_type}): files cannot be stored. Choose another folder."
        )
    if not folder.locks:
        yield _fix(f"{where} has no file locks ({folder.fs_type}). Choose another folder.")
    if folder.exposed:
        yield _fix(_exposed(str(settings.files_dir / RESERVED), "700"))
    if folder.ignores_case:
        yield _note(f"{where} {IGNORES_CASE}")
    if settings.sendfile and not folder.sendfile:
        yield _fix(f"The kernel cannot send files from {where}. Set SEEKABLE_SENDFILE=false.")


def _check_network(settings: Settings, folder: FolderStatus, where: str) -> Iterator[Finding]:
    if folder.fs_type in _NETWORK and settings.database_url is None:
        yield _fix(
            f"{where} is on a network ({folder.fs_type}), where SQLite is not safe. Set "
            "SEEKABLE_DATABASE_URL=sqlite:////FILE to a file on a disk of this machine, or, for servers on "
            "several machines, to a PostgreSQL database."
        )
    elif folder.fs_type in _NFS and not folder.mount_options & _COHERENT:
        yield _note(
            f"{where} is on NFS, where a machine may see names that are a minute old. For servers on several "
            "machines, mount it with lookupcache=none."
        )


def _check_read_only(settings: Settings, folder: FolderStatus, where: str) -> Iterator[Finding]:
    if not folder.exists:
        yield _fix(f"{where} does not exist, or cannot be read by this user.")
    elif settings.read_only:
        yield _good(f"{where} is served read-only (SEEKABLE_READ_ONLY).")
    else:
        yield _note(
            f"{where} is on a read-only file system: no file can be uploaded, renamed or deleted. If this is "
            "intended, set SEEKABLE_READ_ONLY=true."
        )
    if settings.access == "accounts" and settings.database_url is None:
        yield _note(
            "A read-only library has accounts of its own, in the state folder of this user. To use others, "
            "set SEEKABLE_DATABASE_URL to their database."
        )


def _check_space(settings: Settings, folder: FolderStatus, where: str) -> Iterator[Finding]:
    free = ByteSize(folder.free_bytes).human_readable()
    if folder.free_bytes < LOW_SPACE:
        yield _fix(f"{where} has only {free} free. Free some space.")
    elif folder.free_bytes < settings.max_upload_size and _are_set("max_upload_size")(settings):
        maximum = settings.max_upload_size.human_readable()
        yield _note(f"{where} has {free} free, less than SEEKABLE_MAX_UPLOAD_SIZE ({maximum}).")
    else:
        yield _good(f"{where} can be {'written' if folder.exists else 'created'}, and has {free} free.")


def _check_durability(folder: FolderStatus, where: str) -> Iterator[Finding]:
    if folder.fs_type in _IN_MEMORY:
        yield _fix(f"{where} is in memory ({folder.fs_type}): a restart of the machine loses it.")
    elif barriers := folder.mount_options & _NO_BARRIERS:
        yield _fix(f"{where} is mounted with {', '.join(sorted(barriers))}: a power cut loses uploads.")
    elif folder.fsync_s < INSTANT_FSYNC_S:
        yield _note(f"fsync returns at once in {where}: a power cut may lose acknowledged uploads.")


def check_database(settings: Settings, database: DatabaseStatus) -> Iterator[Finding]:
    name = database.name
    if database.error:
        yield _fix(f"{name}: {database.error}")
        return
    if database.missing_rights:
        rights = ", ".join(database.missing_rights)
        yield _fix(f"{name}: its user may not {rights}. Grant it the role readWrite.")
    yield _check_schema(database)
    if abs(database.clock_skew_s) > SKEW_S:
        level = Level.FIX if abs(database.clock_skew_s) > BAD_SKEW_S else Level.NOTE
        yield Finding(
            level, f"{name}: its clock differs from ours by {database.clock_skew_s:+.0f} s. Use NTP."
        )
    yield from (_fix(_exposed(file, "600")) for file in database.exposed_files)
    yield from _check_notifications(database)
    if not database.requires_login:
        yield _note(f"{name} requires no login: every client that can reach it has full access.")
    if database.accounts == 0 and settings.sign_up == "closed":
        yield _fix(
            "There are no accounts, and sign-up is closed. Create one with `seekable account add EMAIL`."
        )


def _check_schema(database: DatabaseStatus) -> Finding:
    name = database.name
    if not database.exists:
        return _fact(f"{name} contains no library yet; `seekable serve` creates it.")
    if database.migration == "newer":
        return _fix(f"{name} was made by a newer Seekable. Install that version, or a later one.")
    if database.migration == "due":
        return _note(f"{name} is migrated at the next start (or by `seekable migrate`).")
    if database.missing_indexes:
        indexes = ", ".join(database.missing_indexes)
        return _fix(f"{name} lacks indexes ({indexes}). Start the server again to create them.")
    if database.free_bytes is None:
        return _good(f"{name} responds, and is up to date.")
    free = ByteSize(database.free_bytes).human_readable()
    if database.free_bytes < LOW_SPACE:
        return _fix(f"{name} has only {free} free on its disk. Free some space.")
    return _good(f"{name} responds, is up to date, and has {free} free.")


def _check_notifications(database: DatabaseStatus) -> Iterator[Finding]:
    if not database.replicated:
        yield _note(
            f"{database.name} is not a replica set: a change whose connection is lost is not retried, and "
            "WebSockets receive only changes of their own process."
        )


@click.command()
@folder_argument
@output_options("Print only what must be fixed.", json_help="Print one JSON object for scripts.")
def doctor(output: Output, folder: str | None) -> None:
    """Check the settings, the folder and the database, and list what to fix.

    With FOLDER, checks what `seekable serve FOLDER` would serve. Prints one line for each finding, then a
    verdict. The exit status is 1 if something has to be fixed. Changes nothing, and may run beside a server.

    With --json, prints an object with version, python, findings (each with level, subject and sentence) and
    verdict.
    """
    override(files_dir=folder)
    findings = [*diagnose()]
    verdict = summarize(findings)
    if output.quiet:
        findings = [finding for finding in findings if finding.level is Level.FIX]
    if output.as_json:
        output.write("", **_fields(findings, verdict))
    else:
        for finding in findings:
            output.write(f"{finding.level.value}: {finding.sentence}")
        output.inform(verdict)
    if any(finding.level is Level.FIX for finding in findings):
        sys.exit(1)


def _fields(findings: Iterable[Finding], verdict: str) -> dict[str, Any]:
    """Return the JSON fields of a diagnosis."""
    return {
        "version": version("seekable"),
        "python": platform.python_version(),
        "findings": [
            {"level": finding.level.value, "subject": finding.subject, "sentence": finding.sentence}
            for finding in findings
        ],
        "verdict": verdict,
    }


def summarize(findings: Iterable[Finding]) -> str:
    """Return the verdict in one line."""
    counts = Counter(finding.level for finding in findings)
    fixes, notes = counts[Level.FIX], counts[Level.NOTE]
    if not fixes and not notes:
        return "Everything is fine."
    to_fix = f"{_count(fixes, 'thing')} to fix" if fixes else "Nothing to fix"
    return f"{to_fix}, {_count(notes, 'note')}." if notes else f"{to_fix}."


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def diagnose(*, timeout_s: float = PROBE_TIMEOUT_S) -> Iterator[Finding]:
    """Yield all findings. Waits for the folder, and for the databases, for the timeout at most."""
    yield from _about("program", [describe_program()])
    found = env_file()
    if found.ignored:
        yield from _about("settings", [_fix(found.ignored)])
    try:
        settings = read()
        names = unknown(found)
    except ConfigurationError as error:
        yield from _about("settings", [_fix(str(error))])
    else:
        yield from _about("access", [check_access(settings)])
        if found.path:
            yield Finding(
                Level.FACT, f"{found.path} is read. `seekable config` prints the settings.", "settings"
            )
        yield from _about("settings", check_settings(settings, names, _descriptors()))
        yield from _about_places(settings, timeout_s)
    yield from _about("media", [describe_media_tools()])


def _about_places(settings: Settings, timeout_s: float) -> Iterator[Finding]:
    if settings.storage == "filesystem":
        probe = partial(probe_folder, settings.files_dir, read_only=settings.read_only)
        name = f"SEEKABLE_FILES_DIR={settings.files_dir}"
        yield from _about("folder", within(timeout_s, name, lambda: check_folder(settings, probe())))

    def databases() -> Iterator[Finding]:
        for status in probe_databases(settings):
            yield from check_database(settings, status)

    yield from _about("database", within(timeout_s, "The database", databases))


def _about(subject: str, findings: Iterable[Finding]) -> Iterator[Finding]:
    return (replace(finding, subject=subject) for finding in findings)


def within(timeout_s: float, name: str, probe: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """Return the findings of a probe, or the finding that it does not end within the timeout."""
    future = Future[list[Finding]]()

    def run() -> None:
        try:
            future.set_result([*probe()])
        except BaseException as error:
            future.set_exception(error)

    Thread(target=run, daemon=True).start()  # the exit of the program does not wait for a daemon
    try:
        return future.result(timeout_s)
    except TimeoutError:
        return [_fix(f"{name} has not responded for {timeout_s:g} s. Check its disk, network and server.")]


def _descriptors() -> float:
    """Return the limit of open files."""
    hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return float("inf") if hard_limit == resource.RLIM_INFINITY else hard_limit
