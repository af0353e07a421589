"""The `seekable` command."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import click

from app import logs
from app.database import prepare_database
from app.listen import authority, listen
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
        raise click.ClickException(logs.escaped(str(error))) from None


@main.command("serve")
@click.option("--host", help="Address to listen on (SEEKABLE_HOST, 127.0.0.1).")
@click.option("--port", type=click.IntRange(0, 65535), help="Port, 0 for a free one (SEEKABLE_PORT, 8000).")
@click.option("--reload", is_flag=True, help="Start again whenever the code changes, for development.")
def serve_command(host: str | None, port: int | None, reload: bool) -> None:
    """Serve the library. An SQLite database is migrated first."""
    logs.configure()
    with _in_a_sentence():
        settings = load()
        host = host if host is not None else settings.host
        port = port if port is not None else settings.port
        _check_host(host, settings)
        listeners = listen(host, port)  # before the database is touched
        prepare_database(settings)  # what is wrong with it is said here, and not in a traceback

    announce = partial(_announce, settings, host, listeners[0].getsockname()[1])
    if reload:
        announce()
        serve_reloading(listeners)
    else:
        serve(listeners, shutdown_timeout=settings.shutdown_timeout, started=announce)


@main.command()
def migrate() -> None:
    """Bring the database to the newest schema."""
    logs.configure()
    with _in_a_sentence():
        prepare_database(load())


def _check_host(host: str, settings: Settings) -> None:
    if settings.access != "open" and host != "localhost" and not is_loopback(host):
        raise ConfigurationError(
            f"Anybody who can reach {host} could upload and delete. Set SEEKABLE_ACCESS=open to allow that, "
            "or listen on 127.0.0.1."
        )


def _announce(settings: Settings, host: str, port: int) -> None:
    here = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(host, host)  # one to connect to
    base = settings.base_url or f"http://{authority(here, port)}"
    click.echo(
        f"Seekable serves {logs.escaped(str(settings.files_dir.absolute()))}\n"
        f"  docs    {base}/docs\n"
        f"  upload  curl -F file=@film.mp4 {base}/file/upload\n"
        f"  play    vlc {base}/files/film.mp4"
    )
