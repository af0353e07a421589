"""Every knob, its default and its unit. Read from the environment (SEEKABLE_*) and from `.env`."""

from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BeforeValidator, ByteSize, Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict


class ConfigurationError(Exception):
    """The settings ask for what cannot be; the message is a sentence for the one who made them."""


def _split(value: object) -> object:
    return (
        tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value
    )


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
"""Several words with commas between them."""


def _origins(value: object) -> object:
    parts = _split(value)
    return tuple(part.rstrip("/").lower() for part in parts) if isinstance(parts, tuple) else parts


Origins = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_origins)]
"""Origins as browsers send them (RFC 6454 6.2)."""


class Settings(BaseSettings):
    """What can be set. Frozen: a change takes a restart."""

    model_config = SettingsConfigDict(env_prefix="SEEKABLE_", env_file=".env", extra="ignore", frozen=True)

    host: str = Field("127.0.0.1", description="Address to listen on; another than loopback needs ACCESS.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    access: Literal["loopback", "open"] = Field(
        "loopback", description="Who may knock: this machine only, or everybody who can reach it."
    )
    base_url: str | None = Field(
        None, description="Where clients reach this server, behind a proxy: links begin with it."
    )
    allowed_hosts: Names = Field((), description="Further Host names to answer to, `*.example.org` too.")
    cors_origins: Origins = Field((), description="Origins of other sites whose pages may use this server.")
    storage: Literal["filesystem", "gridfs"] = Field("filesystem", description="Where the bytes are.")
    files_dir: Path = Field(Path("files"), description="Folder of the files, with storage `filesystem`.")
    database_url: str | None = Field(
        None, description="SQLAlchemy URL; by default an SQLite file in FILES_DIR/.seekable."
    )
    mongodb_url: str | None = Field(None, description="MongoDB URL, with storage `gridfs`.")
    max_upload_size: ByteSize = Field(
        ByteSize(64 << 30), gt=0, description="Bytes that one file may have; units such as `64GiB` are read."
    )
    read_chunk_size: ByteSize = Field(
        ByteSize(128 << 10), ge=4096, le=16 << 20, description="Bytes read from the storage in one go."
    )
    cache_control: str = Field("no-cache", description="Cache-Control of every stored file.")
    scan_interval: int = Field(
        3600, ge=1, description="Seconds between two scans for files that were put, moved or removed by hand."
    )
    max_sockets: int = Field(10_000, ge=1, description="WebSockets that may be open at once.")
    heartbeat: float = Field(
        20, gt=0, description="Seconds between pings of a WebSocket, and those its peer has to answer."
    )
    shutdown_timeout: int = Field(
        30, ge=0, description="Seconds that running transfers have to end after SIGTERM."
    )

    @field_validator("base_url")
    @classmethod
    def _is_base_url(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError("must be like https://media.example.org or https://example.org/media")
        return value.rstrip("/")

    @field_validator("cache_control")
    @classmethod
    def _is_header(cls, value: str) -> str:
        if not (value.isascii() and value.isprintable()):
            raise ValueError("must be printable ASCII: it becomes a header")
        return value


def load() -> Settings:
    """The settings of this process. ConfigurationError names what is wrong with each."""
    try:
        return Settings()
    except ValidationError as error:
        faults = (f"SEEKABLE_{'.'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in error.errors())
        raise ConfigurationError("; ".join(faults)) from None
