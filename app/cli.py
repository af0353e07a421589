"""The `seekable` command."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

from app.database import prepare_database
from app.resources.admission import is_loopback
from app.server import serve, serve_reloading
from app.settings import ConfigurationError, Settings, load
from app.storage.errors import StorageError


@click.group()
@click.version_option(package_name="seekable")
def main() -> None:
    """A small, fast, self-hosted media server. Settings are read from SEEKABLE_* and from .env."""


@contextmanager
def _in_a_sentence() -> Iterator[None]:
    try:
        yield
    except (ConfigurationError, StorageError) as error:
        raise click.ClickException(str(error)) from None


@main.command("serve")
@click.option("--host", help="Address to listen on (SEEKABLE_HOST, 127.0.0.1).")
@click.option("--port", type=click.IntRange(0, 65535), help="Port, 0 for a free one (SEEKABLE_PORT, 8000).")
@click.option("--reload", is_flag=True, help="Start again whenever the code changes, for development.")
def serve_command(host: str | None, port: int | None, reload: bool) -> None:
    """Serve the library. An SQLite database is migrated first."""
    with _in_a_sentence():
        settings = load()
        host = host if host is not None else settings.host
        port = port if port is not None else settings.port
        _check_host(host, settings)
        prepare_database(settings)  # what is wrong with it is said here, and not in a traceback

    def announce(port: int) -> None:
        base = settings.base_url or f"http://{_authority(host, port)}"
        click.echo(
            f"Seekable serves {settings.files_dir.absolute()}\n"
            f"  docs    {base}/docs\n"
            f"  upload  curl -F file=@film.mp4 {base}/file/upload\n"
            f"  play    vlc {base}/files/film.mp4"
        )

    if reload:
        serve_reloading(host, port, heartbeat=settings.heartbeat, started=announce)
    elif not serve(
        host,
        port,
        shutdown_timeout=settings.shutdown_timeout,
        heartbeat=settings.heartbeat,
        started=announce,
    ):
        sys.exit(1)


@main.command()
def migrate() -> None:
    """Bring the database to the newest schema."""
    with _in_a_sentence():
        prepare_database(load())


def _check_host(host: str, settings: Settings) -> None:
    if settings.access != "open" and host != "localhost" and not is_loopback(host):
        raise ConfigurationError(
            f"Anybody who can reach {host} could upload and delete. Set SEEKABLE_ACCESS=open to allow that, "
            "or listen on 127.0.0.1."
        )


def _authority(host: str, port: int) -> str:
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # not addresses to connect to
    return f"[{shown}]:{port}" if ":" in shown else f"{shown}:{port}"
