"""Findings of `seekable doctor`: what is wrong with settings, a folder or a database, and how to fix it.

Pure, but for the names and addresses of this machine. A finding is a note or a fix only if the reader can act
on it, and its sentence then names the remedy.
"""

import socket
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from functools import partial
from ipaddress import ip_address
from urllib.parse import urlsplit

from pydantic import ByteSize

from app.database.doctor_checks import DatabaseStatus, FolderStatus
from app.http.addresses import is_loopback_host
from app.server.connection_limits import connections_within
from app.server.listen import authority, machine_hosts
from app.settings import Settings
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


fact, good, note, fix = (partial(Finding, level) for level in Level)


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
        yield fix(f"There is no setting {name}.")
    for level, applies, sentence in RULES:
        if applies(settings):
            yield Finding(level, sentence)
    possible = descriptors if descriptors == float("inf") else connections_within(int(descriptors))
    if settings.max_connections is not None and settings.max_connections > possible:
        yield fix(
            f"A process may open {descriptors:.0f} files here (`ulimit -Hn`), too few for "
            f"SEEKABLE_MAX_CONNECTIONS={settings.max_connections}. Raise the limit, or set {possible:.0f}."
        )
    limit = settings.max_connections or possible
    wanted = settings.max_sockets if _are_set("max_sockets", "max_connections")(settings) else FEW_CONNECTIONS
    if limit < wanted:
        yield note(
            f"At most {limit:.0f} connections may be open at once, fewer than "
            f"SEEKABLE_MAX_SOCKETS={settings.max_sockets}. For more WebSockets, raise `ulimit -Hn` or "
            "SEEKABLE_MAX_CONNECTIONS."
        )


def check_access(settings: Settings) -> Finding:
    """Return who may connect, and at which address."""
    place = _place(settings)
    may = "may read" if settings.read_only else "may read, upload and delete"
    if settings.access == "loopback":
        return fact(f"Only this machine may connect, {place}.")
    if settings.access == "accounts":
        return fact(f"Every user with an account may connect, {place}.")
    if settings.base_url is None and is_loopback_host(settings.host):
        return fact(
            f"Everyone {may} without an account, but only this machine can connect, {place}. For others, set "
            "SEEKABLE_HOST=0.0.0.0, or put a proxy in front of the server."
        )
    sentence = f"Everyone who can connect {may} without an account, {place}."
    if settings.read_only:
        return fact(sentence)
    return note(f"{sentence} To require an account, set SEEKABLE_ACCESS=accounts.")


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
        yield fix(
            f"{where} cannot be written or created by this user. To serve it as it is, set "
            "SEEKABLE_READ_ONLY=true."
        )
    elif folder.full:
        yield fix(f"{where} is full: no file can be stored. Free some space.")
    else:
        yield from _check_abilities(settings, folder, where)
        yield from _check_network(settings, folder, where)
        yield from _check_space(settings, folder, where)
        yield from _check_durability(folder, where)


def _check_abilities(settings: Settings, folder: FolderStatus, where: str) -> Iterator[Finding]:
    if not folder.exists:
        yield fact(f"{where} does not exist; `seekable serve` creates it.")
    if not folder.hard_links:
        yield fix(
            f"{where} has no hard links ({folder.fs_type}): files cannot be stored. Choose another folder."
        )
    if not folder.locks:
        yield fix(f"{where} has no file locks ({folder.fs_type}). Choose another folder.")
    if folder.exposed:
        yield fix(_exposed(str(settings.files_dir / RESERVED), "700"))
    if folder.ignores_case:
        yield note(f"{where} {IGNORES_CASE}")
    if settings.sendfile and not folder.sendfile:
        yield fix(f"The kernel cannot send files from {where}. Set SEEKABLE_SENDFILE=false.")


def _check_network(settings: Settings, folder: FolderStatus, where: str) -> Iterator[Finding]:
    if folder.fs_type in _NETWORK and settings.database_url is None:
        yield fix(
            f"{where} is on a network ({folder.fs_type}), where SQLite is not safe. Set "
            "SEEKABLE_DATABASE_URL=sqlite:////FILE to a file on a disk of this machine, or, for servers on "
            "several machines, to a PostgreSQL database."
        )
    elif folder.fs_type in _NFS and not folder.mount_options & _COHERENT:
        yield note(
            f"{where} is on NFS, where a machine may see names that are a minute old. For servers on several "
            "machines, mount it with lookupcache=none."
        )


def _check_read_only(settings: Settings, folder: FolderStatus, where: str) -> Iterator[Finding]:
    if not folder.exists:
        yield fix(f"{where} does not exist, or cannot be read by this user.")
    elif settings.read_only:
        yield good(f"{where} is served read-only (SEEKABLE_READ_ONLY).")
    else:
        yield note(
            f"{where} is on a read-only file system: no file can be uploaded, renamed or deleted. If this is "
            "intended, set SEEKABLE_READ_ONLY=true."
        )
    if settings.access == "accounts" and settings.database_url is None:
        yield note(
            "A read-only library has accounts of its own, in the state folder of this user. To use others, "
            "set SEEKABLE_DATABASE_URL to their database."
        )


def _check_space(settings: Settings, folder: FolderStatus, where: str) -> Iterator[Finding]:
    free = ByteSize(folder.free_bytes).human_readable()
    if folder.free_bytes < LOW_SPACE:
        yield fix(f"{where} has only {free} free. Free some space.")
    elif folder.free_bytes < settings.max_upload_size and _are_set("max_upload_size")(settings):
        maximum = settings.max_upload_size.human_readable()
        yield note(f"{where} has {free} free, less than SEEKABLE_MAX_UPLOAD_SIZE ({maximum}).")
    else:
        yield good(f"{where} can be {'written' if folder.exists else 'created'}, and has {free} free.")


def _check_durability(folder: FolderStatus, where: str) -> Iterator[Finding]:
    if folder.fs_type in _IN_MEMORY:
        yield fix(f"{where} is in memory ({folder.fs_type}): a restart of the machine loses it.")
    elif barriers := folder.mount_options & _NO_BARRIERS:
        yield fix(f"{where} is mounted with {', '.join(sorted(barriers))}: a power cut loses uploads.")
    elif folder.fsync_s < INSTANT_FSYNC_S:
        yield note(f"fsync returns at once in {where}: a power cut may lose acknowledged uploads.")


def check_database(settings: Settings, database: DatabaseStatus) -> Iterator[Finding]:
    name = database.name
    if database.error:
        yield fix(f"{name}: {database.error}")
        return
    if database.missing_rights:
        rights = ", ".join(database.missing_rights)
        yield fix(f"{name}: its user may not {rights}. Grant it the role readWrite.")
    yield _check_schema(database)
    if abs(database.clock_skew_s) > SKEW_S:
        level = Level.FIX if abs(database.clock_skew_s) > BAD_SKEW_S else Level.NOTE
        yield Finding(
            level, f"{name}: its clock differs from ours by {database.clock_skew_s:+.0f} s. Use NTP."
        )
    yield from (fix(_exposed(file, "600")) for file in database.exposed_files)
    yield from _check_notifications(database)
    if not database.requires_login:
        yield note(f"{name} requires no login: every client that can reach it has full access.")
    if database.accounts == 0 and settings.sign_up == "closed":
        yield fix(
            "There are no accounts, and sign-up is closed. Create one with `seekable account add EMAIL`."
        )


def _check_schema(database: DatabaseStatus) -> Finding:
    name = database.name
    if not database.exists:
        return fact(f"{name} contains no library yet; `seekable serve` creates it.")
    if database.migration == "newer":
        return fix(f"{name} was made by a newer Seekable. Install that version, or a later one.")
    if database.migration == "due":
        return note(f"{name} is migrated at the next start (or by `seekable migrate`).")
    if database.missing_indexes:
        indexes = ", ".join(database.missing_indexes)
        return fix(f"{name} lacks indexes ({indexes}). Start the server again to create them.")
    if database.free_bytes is None:
        return good(f"{name} responds, and is up to date.")
    free = ByteSize(database.free_bytes).human_readable()
    if database.free_bytes < LOW_SPACE:
        return fix(f"{name} has only {free} free on its disk. Free some space.")
    return good(f"{name} responds, is up to date, and has {free} free.")


def _check_notifications(database: DatabaseStatus) -> Iterator[Finding]:
    if not database.replicated:
        yield note(
            f"{database.name} is not a replica set: a change whose connection is lost is not retried, and "
            "WebSockets receive only changes of their own process."
        )
