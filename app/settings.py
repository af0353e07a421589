"""All settings, with defaults and units, from the environment (SEEKABLE_*) and from `.env`.

A `.env` inside a library is never read: an upload could replace it.
"""

import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from ipaddress import IPv6Address, ip_network
from pathlib import Path
from typing import Annotated, Literal

from pathspec import GitIgnoreSpec
from pydantic import AfterValidator, BeforeValidator, ByteSize, Field, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

log = logging.getLogger(__name__)


class ConfigurationError(Exception):
    """The configuration is invalid; the message is a sentence for its author."""


def _split(separators: str, value: object) -> object:
    if not isinstance(value, str):
        return value
    return tuple(part.strip() for part in re.split(separators, value) if part.strip())


def _valid_patterns(patterns: tuple[str, ...]) -> tuple[str, ...]:
    try:
        GitIgnoreSpec.from_lines(patterns)
    except ValueError as error:
        raise ValueError(f"{error} See gitignore(5).") from None
    return patterns


def _valid_host(name: str) -> str:
    """Accept a value that a Host header can match: a name, an IP literal, or a pattern."""
    if name != "*" and not _is_authority(name.removeprefix("*.")):
        raise ValueError(
            f"{_ascii(name)!r} is not a host. Write it like nas.local, *.example.org, 192.0.2.1, "
            "[2001:db8::1] or *."
        )
    return name


def _valid_address(host: str) -> str:
    """Accept an address to listen on, or its name; listening finds out whether it is one."""
    if not host.strip():
        raise ValueError("It is empty. Write 127.0.0.1 for this machine only, or 0.0.0.0 for all addresses.")
    if found := _WITH_PORT.fullmatch(host):
        address, port = found["host"].strip("[]"), found["port"]
        raise ValueError(
            f"{host} contains a port. Write --host {address} --port {port}, or SEEKABLE_HOST={address} and "
            f"SEEKABLE_PORT={port}."
        )
    return host


def _valid_origin(site: str) -> str:
    """Return an origin as browsers send it (RFC 6454 §6.2)."""
    site = _ascii(site).lower().rstrip("/")
    scheme, _, authority = site.partition("://")
    if site != "*" and not (_SCHEME.fullmatch(scheme) and _is_authority(authority)):
        raise ValueError(
            f"{site!r} is not an origin. Write it like https://app.example.org, http://localhost:3000 or *."
        )
    return site.removesuffix(_DEFAULT_PORTS.get(scheme, ""))


def _valid_network(text: str) -> str:
    """Accept an IP address, or a network in CIDR notation (RFC 4632 §3.1)."""
    try:
        ip_network(text)
    except ValueError as error:
        raise ValueError(f"{error}. Write it like 192.0.2.1, 10.0.0.0/8 or 2001:db8::/32.") from None
    return text


def _valid_base_url(url: str) -> str:
    scheme, _, rest = _ascii(url).partition("://")
    authority, slash, path = rest.partition("/")
    scheme = scheme.lower()
    if scheme not in _DEFAULT_PORTS or not _is_authority(authority) or not _PATH.fullmatch(slash + path):
        raise ValueError(
            f"{url!r} is not a base URL. Write it like https://media.example.org or https://example.org/media."
        )
    return f"{scheme}://{rest}".rstrip("/")


def _expanded_folder(path: object) -> object:
    if not isinstance(path, str):
        return path
    if not path.strip():  # Path("") is the working directory, whose files would all be served
        raise ValueError("It is empty. Name a folder.")
    path = os.path.expanduser(path)
    if not _is_utf8(os.path.abspath(path)):  # the URL of a database cannot contain it
        raise ValueError("Its name is not in UTF-8. Rename the folder, or name a symbolic link to it.")
    return path


def _is_utf8(text: str) -> bool:
    try:
        return bool(text.encode())
    except UnicodeEncodeError:  # bytes that Python could not decode
        return False


def _ascii(text: str) -> str:
    if not text.isascii():
        raise ValueError(f"{text!r} is not in ASCII. Write host names as xn--…, other characters as %….")
    return text


def _is_authority(text: str) -> bool:
    """Return whether this is a host, optionally with a port (RFC 3986 §3.2)."""
    match = _AUTHORITY.fullmatch(_ascii(text))
    if match is None or int(match["port"] or 0) > 65535:
        return False
    try:
        return match["ip"] is None or bool(IPv6Address(match["ip"]))
    except ValueError:
        return False


_AUTHORITY = re.compile(
    r"(?i:[a-z0-9_-]+(?:\.[a-z0-9_-]+)*\.?|\[(?P<ip>[0-9a-f:.]+)\])(?::(?P<port>[0-9]{1,5}))?"
)
_WITH_PORT = re.compile(
    r"(?:https?://)?(?P<host>\[[0-9a-f:.]+\]|[^:/\[\]]+):(?P<port>[0-9]+)/?", re.IGNORECASE
)
_PATH = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2})*")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")
# Variables that Kubernetes sets for a service named `seekable`, or `seekable-…`.
_SERVICE = re.compile(
    r"SEEKABLE(_[A-Z0-9_]+)?_(SERVICE_(HOST|PORT(_[A-Z0-9_]+)?)|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)
_SERVICE_URL = re.compile(r"(tcp|udp|sctp)://.*")
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}
"""The ports that browsers omit from an origin."""

_COMMAS = BeforeValidator(partial(_split, ","))
_COMMAS_AND_LINES = BeforeValidator(partial(_split, r"[,\n]"))

Hosts = Annotated[tuple[Annotated[str, AfterValidator(_valid_host)], ...], NoDecode, _COMMAS]
Origins = Annotated[tuple[Annotated[str, AfterValidator(_valid_origin)], ...], NoDecode, _COMMAS]
Networks = Annotated[tuple[Annotated[str, AfterValidator(_valid_network)], ...], NoDecode, _COMMAS]
"""IP networks, separated by commas; `Hosts` and `Origins` likewise."""

Patterns = Annotated[tuple[str, ...], NoDecode, _COMMAS_AND_LINES, AfterValidator(_valid_patterns)]
"""Patterns in the syntax of .gitignore, separated by commas or line breaks."""

IGNORE = (
    # macOS
    "._*",
    ".DS_Store",
    ".AppleDouble",
    ".DocumentRevisions-V100",
    ".Spotlight-V100",
    ".TemporaryItems",
    ".fseventsd",
    # Windows
    "[Tt]humbs.db",
    "[Dd]esktop.ini",
    "$RECYCLE.BIN",
    "System Volume Information",
    # Linux desktops, and files that were deleted while a program had them open
    ".Trash*",
    "lost+found",
    ".nfs*",
    ".fuse_hidden*",
    # NAS boxes
    "@eaDir",
    "@Recycle",
    "@Recently-Snapshot",
    ".@__thumb",
    r"\#recycle",
    r"\#snapshot",
    # Unfinished downloads
    "*.part",
    "*.partial",
    "*.crdownload",
    "*.aria2",
    "*.!qB",
    ".syncthing.*",
)
"""Names of files that operating systems, NAS boxes and downloads leave in folders of films."""


PREFIX = "SEEKABLE_"
TARGET_PREFIX = "SEEKABLE_COPY_TO_"
"""Prefix of the settings that `seekable copy` reads for the target library."""

ENV_FILE = ".env"
"""Name of the file with settings in the working directory."""

_MAX_LINKS = 40
"""Number of symbolic links that Linux follows for one path."""


class Settings(BaseSettings):
    """The configuration of one library. Frozen: a change needs a restart."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", frozen=True)

    host: Annotated[str, AfterValidator(_valid_address)] = Field(
        "127.0.0.1",
        description="Address to listen on. Any other than loopback needs `SEEKABLE_ACCESS=accounts` or "
        "`open`.",
    )
    port: int = Field(
        8000,
        ge=0,
        le=65535,
        description="Port to listen on, on every address of the host; 0 selects a free port.",
    )
    access: Literal["loopback", "open", "accounts"] = Field(
        "loopback",
        description="Who may connect: `loopback`, this machine only; `open`, every client that can reach "
        "the server; or `accounts`, every user with an account, each with a library of their "
        "own.",
    )
    sign_up: Literal["open", "invite", "closed"] = Field(
        "invite",
        description="Who may create an account: `open`, every client; `invite`, holders of an invite; or "
        "`closed`, no client.",
    )
    api_docs: Literal["open", "login"] = Field(
        "open",
        description="Who may read `/docs` and `/openapi.json`, with access `accounts`: every client that may "
        "connect (`open`), or users after a login (`login`).",
    )
    users_url: str | None = Field(
        None,
        description="MongoDB URL of the accounts, with storage `gridfs`; by default the database `users` "
        "on the server of the files.",
    )
    quota: ByteSize | None = Field(
        None,
        ge=0,
        description="Bytes that the files of one account may occupy, unless the account has its own quota.",
    )
    session_idle_timeout: int = Field(
        14 * 86400, ge=1, description="Seconds without use after which a login ends."
    )
    session_lifetime: int = Field(90 * 86400, ge=1, description="Seconds after which every login ends.")
    base_url: Annotated[str, AfterValidator(_valid_base_url)] | None = Field(
        None,
        description="The address at which clients reach the server, such as `https://media.example.org`: "
        "links begin with it.",
    )
    allowed_hosts: Hosts = Field(
        (),
        description="Further accepted `Host` names, beside the machine's own name and that name with "
        "`.local`; in ASCII (`xn--…`); `*.example.org` and `*` too.",
    )
    trusted_proxies: Networks = Field(
        ("127.0.0.1", "::1"),
        description="Addresses and networks (`10.0.0.0/8`) of proxies: `X-Forwarded-For`, "
        "`X-Forwarded-Proto` and `Forwarded` are trusted only from there.",
    )
    cors_origins: Origins = Field(
        (),
        description="Sites whose pages may use this server, such as `https://app.example.org`; `*` for all.",
    )
    storage: Literal["filesystem", "gridfs"] = Field(
        "filesystem", description="Where the bytes are: `filesystem`, a folder, or `gridfs`, a MongoDB."
    )
    files_dir: Annotated[Path, BeforeValidator(_expanded_folder)] = Field(
        Path("files"), description="For `filesystem`: the folder of the films; `~` is your home."
    )
    read_only: bool = Field(
        False,
        description="Serve the files and refuse all changes. A folder on a read-only file system is "
        "read-only without this setting.",
    )
    database_url: str | None = Field(
        None,
        description="For `filesystem`: `sqlite:///FILE` or "
        "`postgresql+psycopg://USER:PASSWORD@HOST/DATABASE`.",
    )
    mongodb_url: str | None = Field(
        None,
        description="For `gridfs`: `mongodb://HOST/DATABASE?replicaSet=…`; without a name, the database is "
        "`seekable`.",
    )
    ignore: Patterns = Field(
        IGNORE,
        description="Names of files and folders that lists leave out, in the syntax of `.gitignore`, "
        "separated by commas or line breaks (`?` stands for a comma in a name); empty for "
        "none.",
    )
    max_upload_size: ByteSize = Field(
        ByteSize(64 << 30), gt=0, description="Maximum size of an uploaded file."
    )
    read_chunk_size: ByteSize = Field(
        ByteSize(128 << 10),
        ge=4096,
        le=16 << 20,
        description="For `filesystem`, where `sendfile` is not used: bytes per read.",
    )
    cache_control: str = Field(
        "no-cache",
        description="`Cache-Control` of every file; with accounts `private, no-cache`, unless it is set.",
    )
    scan_interval: int = Field(
        3600,
        ge=1,
        description="Seconds between two full scans for files that other programs added, changed or removed.",
    )
    stable_after: float = Field(
        2,
        ge=0,
        description="Seconds without a change after which a new file of another program counts as "
        "complete, where the system cannot tell whether it is still open, such as on a network "
        "share. Raise it if copies to your NAS pause for longer.",
    )
    max_sockets: int = Field(
        10_000,
        ge=1,
        description="Maximum number of open WebSockets; a further one gets a 503. Each is a connection, too.",
    )
    heartbeat: float = Field(
        20,
        gt=0,
        description="Seconds between pings of a WebSocket, and seconds that a client has to answer one.",
    )
    max_header_size: ByteSize = Field(
        ByteSize(64 << 10),
        ge=1024,
        description="Maximum size of a request before its body; a longer one gets a 431.",
    )
    header_timeout: float = Field(
        10,
        gt=0,
        description="Seconds that a client has to send a request, up to its body; then it gets a 408.",
    )
    body_timeout: float = Field(
        30,
        gt=0,
        description="Seconds that an upload may pause; then it gets a 408, and nothing of it is kept.",
    )
    body_rate: ByteSize = Field(
        ByteSize(1024),
        ge=0,
        description="Minimum bytes per second of an upload, averaged over `SEEKABLE_BODY_TIMEOUT`; a "
        "slower one gets a 408. `0` for no minimum.",
    )
    max_connections: int | None = Field(
        None,
        ge=1,
        description="Maximum number of open connections; a further one gets a 503 and is closed. By "
        "default (`ulimit -Hn` − 320) / 3, since a slow reader takes three descriptors.",
    )
    max_connections_per_peer: int = Field(
        1000,
        ge=1,
        description="Maximum number of open connections per address (of IPv6: per /64). This machine and "
        "`SEEKABLE_TRUSTED_PROXIES` are exempt.",
    )
    send_timeout: float = Field(
        60,
        gt=0,
        description="Seconds that a client may stop reading a response; then the connection is closed, and "
        "the client can resume with a range.",
    )
    keepalive_timeout: float = Field(
        5, gt=0, description="Seconds that an idle connection stays open for the next request."
    )
    sendfile: bool = Field(
        True,
        description="Let the kernel send files from a folder without a copy (Linux). `false` for file "
        "systems that do not support it.",
    )
    fast_path: bool = Field(
        True,
        description="For 2 seconds, answer requests that differ from an earlier one only in the range from "
        "memory instead of by the whole program. Needs `SEEKABLE_SENDFILE`.",
    )
    access_log: bool = Field(True, description="Log each request, to standard output.")
    log_format: Literal["line", "json"] = Field(
        "line", description="Format of each log record: a `line`, or an object in `json`."
    )
    metrics: Literal["off", "local", "open"] = Field(
        "local",
        description="Who may read `GET /metrics`: no client (`off`), this machine (`local`), or every "
        "client that connects without a proxy (`open`).",
    )
    shutdown_delay: float = Field(
        0,
        ge=0,
        description="Seconds after SIGTERM or SIGINT during which the port stays open, while "
        "`/health/ready` is 503.",
    )
    shutdown_timeout: int = Field(
        30, ge=0, description="Seconds that running transfers have to end after SIGTERM or SIGINT."
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Ignore the SEEKABLE_PORT that Kubernetes sets for a service of that name: it is a URL."""
        assert isinstance(env_settings, EnvSettingsSource)
        env_settings.env_vars = {
            name: value
            for name, value in env_settings.env_vars.items()
            if not (name == "seekable_port" and _SERVICE_URL.fullmatch(value or ""))
        }
        return init_settings, env_settings, dotenv_settings, file_secret_settings

    @property
    def library_folder(self) -> Path | None:
        """The folder in which uploads become files. None with storage `gridfs`."""
        return self.files_dir if self.storage == "filesystem" else None

    @property
    def location(self) -> str:
        """The folder or the MongoDB URL of the files, for display: without a password."""
        if self.storage == "gridfs":
            return re.sub(r"//[^/]*@", "//", (self.mongodb_url or "").partition("?")[0])
        return str(self.files_dir.absolute())

    @field_validator("cache_control")
    @classmethod
    def _is_header(cls, value: str) -> str:
        if not (value.isascii() and value.isprintable()):
            raise ValueError("The server sends this value in a header. Use printable ASCII only.")
        return value


@dataclass(frozen=True)
class EnvFile:
    """The `.env` of the working directory, and whether it may be read."""

    path: Path | None
    """None if the file is missing, or if it must not be read."""
    ignored: str = ""
    """A sentence why the file is not read; empty if it is read or missing."""


def env_file(target: str | None = None) -> EnvFile:
    """Find `.env`; ignore it inside a library that the environment names, or `target` (of an option)."""
    path = Path(ENV_FILE).absolute()
    if not path.is_file():
        return EnvFile(None)
    named = [_named_by_environment(PREFIX), _named_by_environment(TARGET_PREFIX)]
    if target is not None:
        named.append(Path(os.path.expanduser(target)))
    for library in named:
        if library is not None and _lies_in(path, library):
            return EnvFile(
                None,
                f"{path} is not read: it lies in the library {library.absolute()}, where an upload could "
                "replace it. Move its settings to the environment, or start from another folder.",
            )
    return EnvFile(path)


def _named_by_environment(prefix: str) -> Path | None:
    try:
        return Settings(_env_prefix=prefix).library_folder
    except ValidationError:  # the command that reads these settings reports the error
        return None


def _lies_in(file: Path, library: Path) -> bool:
    """Return whether the file, or a symbolic link on the way to it, is beneath the library."""
    if not library.exists():
        return False
    for parent in _parents(file):
        folder = Path(os.path.realpath(parent))
        if any(above.exists() and above.samefile(library) for above in (folder, *folder.parents)):
            return True
    return False


def _parents(file: Path) -> Iterator[Path]:
    """Yield the folder of the file, and of each link target in turn."""
    for _ in range(_MAX_LINKS):
        yield file.parent
        if not file.is_symlink():
            return
        file = file.parent / file.readlink()


def load(prepare: Callable[[Settings], object] | None = None, *, target: str | None = None) -> Settings:
    """Return the settings of this process; log unknown settings and a `.env` that is not read.

    Calls `prepare` with the settings before it logs; `target` is as in `env_file`.
    Raises ConfigurationError, which names every invalid setting.
    """
    found = env_file(target)
    settings = _read(PREFIX, found)
    if prepare is not None:
        prepare(settings)
    if found.ignored:
        log.warning("%s", found.ignored)
    if names := unknown(found):
        log.warning("Unknown settings: %s", ", ".join(names))
    return settings


def read(prefix: str = PREFIX) -> Settings:
    """Return the settings of this process without logging. Raises ConfigurationError."""
    return _read(prefix, env_file())


def override(**options: object) -> None:
    """Give settings these values in this process and its children. None leaves a setting as it is.

    The environment carries the values, because a child of `serve --reload` reads the settings again, and
    because a `.env` in a library that the environment names is not read.
    """
    for name, value in options.items():
        if value is not None:
            variable = f"{PREFIX}{name.upper()}"
            for other in [known for known in os.environ if known.upper() == variable]:
                del os.environ[other]  # settings ignore the case of names
            os.environ[variable] = str(value)


def unknown(found: EnvFile) -> list[str]:
    """Return the unknown SEEKABLE_* names in the environment and in `.env`, each with the nearest setting."""
    names = nearest_settings(found).items()
    return [f"{name} (did you mean {near}?)" if near else name for name, near in names]


def nearest_settings(found: EnvFile) -> dict[str, str | None]:
    """Return the unknown SEEKABLE_* names with the setting that each resembles, or None."""
    source = DotEnvSettingsSource(Settings, env_file=found.path)
    return {name: _nearest(name) for name in misspelt([*os.environ, *source.env_vars])}


def set_by_environment(prefix: str) -> frozenset[str]:
    """Return the fields that environment variables with this prefix set."""
    return frozenset(Settings(_env_prefix=prefix, _env_file=None).model_fields_set)


def load_target(**options: str | None) -> Settings:
    """Return the settings of the target of a copy: from these options, else from SEEKABLE_COPY_TO_*.

    Raises ConfigurationError if neither names the target: a default could be the folder of another library.
    """
    given = {name: value for name, value in options.items() if value is not None}
    target = _read(TARGET_PREFIX, env_file(options.get("files_dir")), **given)
    where = {"filesystem": "files_dir", "gridfs": "mongodb_url"}[target.storage]
    for name in ("storage", where):
        if name not in target.model_fields_set:
            raise ConfigurationError(
                f"Set {TARGET_PREFIX}{name.upper()}, or its option, to the target of the copy."
            )
    return target


def _read(prefix: str, found: EnvFile, **options: str) -> Settings:
    try:
        settings = Settings(
            _env_prefix=prefix,
            _env_file=found.path,
            **options,  # type: ignore[arg-type]
        )
    except ValidationError as error:
        messages = (
            f"{prefix}{str(e['loc'][0]).upper()}: {e['msg'].removeprefix('Value error, ').rstrip('.')}."
            for e in error.errors()
        )
        raise ConfigurationError(" ".join(messages)) from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{found.path} is not in UTF-8. Save it in UTF-8.") from None
    except OSError as error:
        raise ConfigurationError(f"{found.path} cannot be read: {error.strerror}.") from None
    library = settings.library_folder
    if found.path is not None and library is not None and _lies_in(found.path, library):
        raise ConfigurationError(
            f"{found.path} lies in the library that it names, {library.absolute()}, where an upload could "
            f"replace it. Set {prefix}FILES_DIR in the environment, or move the file to a folder outside of "
            "the library and start from there."
        )
    return settings


def misspelt(names: Iterable[str]) -> list[str]:
    """Return the SEEKABLE_ names that are neither settings nor set by Kubernetes, each once."""
    upper = (name.upper() for name in names)
    return sorted(
        {n for n in upper if n.startswith(PREFIX) and n not in _names() and not _SERVICE.fullmatch(n)}
    )


def _nearest(name: str) -> str | None:
    # Without the common prefix, which would make all names similar.
    names = {known.removeprefix(PREFIX): known for known in _names()}
    near = get_close_matches(name.removeprefix(PREFIX), names, n=1)
    return names[near[0]] if near else None


def _names() -> list[str]:
    return [f"{prefix}{name.upper()}" for name in Settings.model_fields for prefix in (PREFIX, TARGET_PREFIX)]
