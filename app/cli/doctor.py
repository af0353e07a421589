"""`seekable doctor`: what is wrong with a configuration, and what to do."""

import resource
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from ipaddress import ip_address
from urllib.parse import urlsplit

import click
from pydantic import ByteSize

from app import logs
from app.cli.failures import in_a_sentence
from app.database.examining import examine
from app.database.facts import DatabaseFacts
from app.database.filesystem.doctor_checks import FolderFacts, examine_folder
from app.server.connection_limits import connections_within
from app.settings import EnvFile, Settings, env_file, read, unknown
from app.storage.types import RESERVED


class Level(Enum):
    """How much it matters."""

    GOOD = "good"
    NOTE = "note"
    FIX = "fix"


@dataclass(frozen=True)
class Finding:
    """One line."""

    level: Level
    sentence: str


LITTLE = 1 << 30
"""Free bytes below which a disk is nearly full, for a library of films."""

SKEW_S, BAD_SKEW_S = 2.0, 30.0
"""Seconds between two clocks that are worth a word; and that matter to leases, which last two minutes."""

NO_SYNC_S = 0.00002
"""An fsync that is shorter than this has asked no disk."""

IGNORES_CASE = (
    "is on a file system that ignores case: “film.mp4” and “FILM.mp4” cannot both be stored there. The "
    "spelling that is there counts; a request with another one is answered 404, or 409 if it creates a file."
)
"""Said of such a folder, here and when the server starts."""

_IN_MEMORY = {"tmpfs", "ramfs"}
_NETWORK = {"nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "fuse.s3fs", "fuse.rclone"}
_NFS = {"nfs", "nfs4"}
_COHERENT = {"lookupcache=none", "noac"}
_NO_BARRIERS = {"nobarrier", "barrier=0", "fsync=nobarrier", "nosync"}


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _is_private(host: str) -> bool:
    """Whether a name or an address is of a network of one's own, as far as it says."""
    try:
        return ip_address(host.strip("[]")).is_private
    except ValueError:
        return host == "localhost" or "." not in host or host.endswith((".local", ".lan", ".internal"))


def _unencrypted(settings: Settings) -> bool:
    """Whether passwords travel readably through networks of others."""
    base = urlsplit(settings.base_url or "")
    return base.scheme == "http" and not _is_private(base.hostname or "")


def _ignored(*names: str) -> Callable[[Settings], bool]:
    return lambda settings: bool(settings.model_fields_set & set(names))


_Rule = tuple[Level, Callable[[Settings], bool], str]

RULES: tuple[_Rule, ...] = (
    (
        Level.FIX,
        lambda s: s.access == "loopback" and not _is_loopback(s.host),
        "SEEKABLE_HOST is not this machine's own address, and SEEKABLE_ACCESS is loopback: `seekable serve` "
        "refuses that. Set SEEKABLE_ACCESS=accounts, or open.",
    ),
    (
        Level.NOTE,
        lambda s: s.access == "open" and not _is_loopback(s.host),
        "SEEKABLE_ACCESS=open: everybody who can reach SEEKABLE_HOST may upload and delete. "
        "SEEKABLE_ACCESS=accounts lets in those who have an account.",
    ),
    (
        Level.FIX,
        lambda s: s.access == "accounts" and _unencrypted(s),
        "SEEKABLE_BASE_URL begins with http://: passwords travel readably. Put a proxy in front that speaks "
        "https, and name it in SEEKABLE_BASE_URL.",
    ),
    (
        Level.NOTE,
        lambda s: s.access == "accounts" and not _is_loopback(s.host) and s.base_url is None,
        "Accounts without SEEKABLE_BASE_URL=https://…: over plain http passwords travel readably, beyond a "
        "network of your own put a proxy in front.",
    ),
    (
        Level.FIX,
        lambda s: s.access != "accounts" and "*" in s.cors_origins,
        "SEEKABLE_CORS_ORIGINS=* without accounts: any site that you visit may upload and delete here. Name "
        "the sites.",
    ),
    (
        Level.FIX,
        lambda s: s.access == "loopback" and "*" in s.allowed_hosts,
        "SEEKABLE_ALLOWED_HOSTS=* with SEEKABLE_ACCESS=loopback: any site may reach this server through your "
        "browser (DNS rebinding). Name the hosts.",
    ),
    (
        Level.NOTE,
        lambda s: s.access == "loopback" and s.base_url is not None,
        "SEEKABLE_BASE_URL with SEEKABLE_ACCESS=loopback: clients of a proxy that sends X-Forwarded-For are "
        "refused. Set SEEKABLE_ACCESS=accounts, or open.",
    ),
    (
        Level.NOTE,
        lambda s: s.base_url is not None and not _is_loopback(s.host) and not _ignored("trusted_proxies")(s),
        "SEEKABLE_BASE_URL without SEEKABLE_TRUSTED_PROXIES: all clients of a proxy on another machine count "
        "as one address. Name its address, or its network.",
    ),
    (
        Level.NOTE,
        lambda s: s.access == "accounts" and s.sign_up == "open" and s.quota is None,
        "SEEKABLE_SIGN_UP=open without SEEKABLE_QUOTA: anybody may make an account, and fill the disk.",
    ),
    (
        Level.FIX,
        lambda s: s.access == "accounts" and "public" in s.cache_control.replace(" ", "").split(","),
        "SEEKABLE_CACHE_CONTROL has public, with accounts: shared caches would hand one account's files to "
        "others. Leave it away.",
    ),
    (
        Level.NOTE,
        lambda s: s.access != "accounts" and _ignored("sign_up", "users_url", "quota")(s),
        "SEEKABLE_SIGN_UP, SEEKABLE_USERS_URL and SEEKABLE_QUOTA count with SEEKABLE_ACCESS=accounts only.",
    ),
    (
        Level.NOTE,
        lambda s: s.storage == "gridfs" and _ignored("files_dir", "database_url")(s),
        "SEEKABLE_FILES_DIR and SEEKABLE_DATABASE_URL do not count with SEEKABLE_STORAGE=gridfs.",
    ),
    (
        Level.FIX,
        lambda s: s.storage == "filesystem" and _ignored("mongodb_url", "users_url")(s),
        "SEEKABLE_MONGODB_URL and SEEKABLE_USERS_URL do not count: set SEEKABLE_STORAGE=gridfs, or leave "
        "them away.",
    ),
    (
        Level.NOTE,
        lambda s: s.session_idle_timeout > s.session_lifetime,
        "SEEKABLE_SESSION_IDLE_TIMEOUT is longer than SEEKABLE_SESSION_LIFETIME, and so has no effect.",
    ),
)
"""What settings alone can say: how much it matters, of which settings it is true, and what to do."""


def of_settings(settings: Settings, unknown: Iterable[str], descriptors: float) -> Iterator[Finding]:
    """`unknown` names are like those of settings; `descriptors` is how many the process may have."""
    for name in unknown:
        yield Finding(Level.FIX, f"There is no setting {name}.")
    for level, is_so, sentence in RULES:
        if is_so(settings):
            yield Finding(level, sentence)
    fitting = descriptors if descriptors == float("inf") else connections_within(int(descriptors))
    if settings.max_connections is not None and settings.max_connections > fitting:
        yield Finding(
            Level.FIX,
            f"A process may have {descriptors:.0f} descriptors here (`ulimit -Hn`), too few for "
            f"SEEKABLE_MAX_CONNECTIONS={settings.max_connections}: raise the limit, or set {fitting:.0f}.",
        )
    most = settings.max_connections or fitting
    if most < settings.max_sockets:
        yield Finding(
            Level.NOTE,
            f"At most {most:.0f} connections may be open at once here, fewer than "
            f"SEEKABLE_MAX_SOCKETS={settings.max_sockets}: raise `ulimit -Hn` or SEEKABLE_MAX_CONNECTIONS "
            "for more WebSockets.",
        )


def _exposed(path: str, mode: str) -> str:
    return (
        f"Other users of this machine have rights to {path}: start the server again, or `chmod {mode}` it. "
        "On a file system that knows no rights, mount it so that only this user may enter."
    )


def of_folder(settings: Settings, facts: FolderFacts) -> Iterator[Finding]:
    """What the folder of files says."""
    where = f"SEEKABLE_FILES_DIR={settings.files_dir}"
    if facts.read_only:
        yield from _of_read_only(settings, facts, where)
        return
    if not facts.writable:
        yield Finding(
            Level.FIX,
            f"{where} cannot be written by this user, or cannot be made. To serve it as it is, set "
            "SEEKABLE_READ_ONLY=true.",
        )
        return
    if facts.full:
        yield Finding(Level.FIX, f"{where} is full: no file can be stored. Make room.")
        return
    if not facts.exists:
        yield Finding(Level.NOTE, f"{where} is not there; `seekable serve` makes it.")
    if not facts.links:
        yield Finding(
            Level.FIX, f"{where} has no hard links ({facts.kind}): files cannot be stored. Choose another."
        )
    if not facts.locks:
        yield Finding(Level.FIX, f"{where} has no file locks ({facts.kind}). Choose another.")
    if facts.exposed:
        folder = settings.files_dir / RESERVED
        yield Finding(Level.FIX, _exposed(str(folder), "700"))
    if facts.ignores_case:
        yield Finding(Level.NOTE, f"{where} {IGNORES_CASE}")
    if settings.sendfile and not facts.sendfile:
        yield Finding(Level.FIX, f"The kernel cannot send files from {where}: set SEEKABLE_SENDFILE=false.")
    if facts.kind in _NETWORK and settings.database_url is None:
        yield Finding(
            Level.FIX,
            f"{where} is on a network ({facts.kind}), where SQLite is not safe: name a PostgreSQL, or a file "
            "on a disk of this machine, in SEEKABLE_DATABASE_URL.",
        )
    elif facts.kind in _NFS and not facts.options & _COHERENT:
        yield Finding(
            Level.NOTE,
            f"{where} is on NFS, where a machine may see names as they were a minute ago: for servers on "
            "several machines, mount it with lookupcache=none.",
        )
    yield from _of_room(settings, facts, where)
    yield from _of_sync(facts, where)


def _of_read_only(settings: Settings, facts: FolderFacts, where: str) -> Iterator[Finding]:
    if not facts.exists:
        yield Finding(Level.FIX, f"{where} cannot be read by this user, or is not there.")
    elif settings.read_only:
        yield Finding(Level.GOOD, f"{where} is served read-only (SEEKABLE_READ_ONLY).")
    else:
        yield Finding(
            Level.NOTE,
            f"{where} is on a read-only file system: no file can be uploaded, renamed or deleted. Set "
            "SEEKABLE_READ_ONLY=true if that is meant.",
        )
    if settings.access == "accounts" and settings.database_url is None:
        yield Finding(
            Level.NOTE,
            "A read-only library has accounts of its own, in the state folder of this user. To use others, "
            "name their database in SEEKABLE_DATABASE_URL.",
        )


def _of_room(settings: Settings, facts: FolderFacts, where: str) -> Iterator[Finding]:
    free = ByteSize(facts.free).human_readable()
    if facts.free < LITTLE:
        yield Finding(Level.FIX, f"{where} has {free} left. Make room.")
    elif facts.free < settings.max_upload_size:
        longest = settings.max_upload_size.human_readable()
        yield Finding(Level.NOTE, f"{where} has {free} left, less than SEEKABLE_MAX_UPLOAD_SIZE ({longest}).")
    else:
        yield Finding(Level.GOOD, f"{where} can be written, and has {free} left.")


def _of_sync(facts: FolderFacts, where: str) -> Iterator[Finding]:
    if facts.kind in _IN_MEMORY:
        yield Finding(Level.FIX, f"{where} is in memory ({facts.kind}): the machine's next start loses it.")
    elif barriers := facts.options & _NO_BARRIERS:
        yield Finding(
            Level.FIX, f"{where} is mounted with {', '.join(sorted(barriers))}: a power cut loses uploads."
        )
    elif facts.sync_s < NO_SYNC_S:
        yield Finding(
            Level.NOTE, f"fsync returns at once in {where}: a power cut may lose what was acknowledged."
        )


def of_database(settings: Settings, facts: DatabaseFacts) -> Iterator[Finding]:
    """What a database says."""
    if facts.error:
        yield Finding(Level.FIX, f"{facts.name}: {facts.error}")
        return
    if facts.missing_rights:
        rights = ", ".join(facts.missing_rights)
        yield Finding(Level.FIX, f"{facts.name}: its user may not {rights}. Give it the role readWrite.")
    if facts.made and facts.migration == "newer":
        yield Finding(
            Level.FIX, f"{facts.name} was made by a newer Seekable. Install that version, or a later one."
        )
    elif facts.made and facts.migration == "due":
        yield Finding(Level.NOTE, f"{facts.name} is migrated at the next start (or by `seekable migrate`).")
    elif facts.made and facts.missing_indexes:
        indexes = ", ".join(facts.missing_indexes)
        yield Finding(
            Level.FIX, f"{facts.name} lacks indexes ({indexes}): start the server again to make them."
        )
    elif facts.made:
        yield Finding(Level.GOOD, f"{facts.name} answers, and is up to date.")
    else:
        yield Finding(Level.NOTE, f"{facts.name} has nothing of ours yet; `seekable serve` begins.")
    if abs(facts.skew_s) > SKEW_S:
        level = Level.FIX if abs(facts.skew_s) > BAD_SKEW_S else Level.NOTE
        yield Finding(level, f"{facts.name}: its clock differs from ours by {facts.skew_s:+.0f} s. Use NTP.")
    yield from (Finding(Level.FIX, _exposed(file, "600")) for file in facts.exposed)
    if facts.alone:
        yield Finding(
            Level.NOTE,
            f"{facts.name} stays on one machine: WebSockets hear only of what their own process does. For "
            "more, name a PostgreSQL in SEEKABLE_DATABASE_URL.",
        )
    if not facts.replicated:
        yield Finding(
            Level.NOTE,
            f"{facts.name} is no replica set: a change whose connection is lost is not tried again, and "
            "WebSockets hear only of what their own process does.",
        )
    if not facts.protected:
        yield Finding(Level.NOTE, f"{facts.name} lets in everybody who can reach it.")
    if facts.accounts == 0 and settings.sign_up == "closed":
        yield Finding(
            Level.FIX,
            "Nobody has an account, and nobody may sign up: make one with `seekable account add EMAIL`.",
        )


@click.command()
def doctor() -> None:
    """Look at the settings, the folder and the database, and say what to fix.

    One line for each finding; the exit status is 1 if something has to be fixed. Nothing is changed, and a
    server may run meanwhile.
    """
    with in_a_sentence():
        findings = [*_findings(read(), env_file())]
    for finding in findings:
        click.echo(f"{finding.level.value}: {logs.escaped(finding.sentence)}")
    if any(finding.level is Level.FIX for finding in findings):
        sys.exit(1)


def _findings(settings: Settings, found: EnvFile) -> Iterator[Finding]:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    descriptors = float("inf") if most == resource.RLIM_INFINITY else most
    if found.ignored:
        yield Finding(Level.FIX, found.ignored)
    yield from of_settings(settings, unknown(found), descriptors)
    if settings.storage == "filesystem":
        yield from of_folder(settings, examine_folder(settings.files_dir, read_only=settings.read_only))
    for facts in examine(settings):
        yield from of_database(settings, facts)
