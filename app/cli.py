"""The `seekable` command."""

import asyncio
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import click

from app import logs
from app.database import open_database, prepare_database
from app.library.mediatypes import media_type
from app.listen import authority, listen
from app.resources.admission import is_loopback
from app.server import serve, serve_reloading
from app.settings import ConfigurationError, Settings, load
from app.storage.contract import Storage
from app.storage.errors import StorageError
from app.storage.upkeep import Outcome, Verdict


@click.group()
@click.version_option(package_name="seekable")
def main() -> None:
    """A small, fast, self-hosted media server. Settings are read from SEEKABLE_* and from .env."""
    logs.configure()


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
        serve_reloading(listeners, heartbeat=settings.heartbeat)
    else:
        serve(
            listeners,
            shutdown_timeout=settings.shutdown_timeout,
            heartbeat=settings.heartbeat,
            started=announce,
        )


@main.command()
def migrate() -> None:
    """Bring the database to the newest schema."""
    with _in_a_sentence():
        prepare_database(load())


@main.command()
def scan() -> None:
    """Take note of files that were put there, changed, moved or removed by hand."""
    found: Counter[Outcome] = Counter()
    left: list[str] = []
    files = 0

    async def run(storage: Storage) -> None:
        nonlocal files
        length = await storage.to_scan()
        with click.progressbar(length=length, label="Scanning", file=sys.stderr) as bar:
            async for step in storage.scan():
                files += step.files
                bar.update(step.files + sum(bool(finding.reason) for finding in step.findings))
                for finding in step.findings:
                    found[finding.outcome] += 1
                    if finding.reason:
                        left.append(
                            f"  {finding.outcome.value}: {logs.escaped(finding.path)}: {finding.reason}"
                        )

    _with_storage(run)
    click.echo(", ".join([f"{files} files", *_counts(found)]))
    for line in left:
        click.echo(line)


@main.command()
def verify() -> None:
    """Read every file and name those that no longer match their hash; the exit status is then 1."""
    found: Counter[Verdict] = Counter()
    bad: list[str] = []

    async def run(storage: Storage) -> None:
        usage = await storage.usage()
        with click.progressbar(length=usage.size, label="Verifying", file=sys.stderr) as bar:
            async for step in storage.verify():
                bar.update(step.size)
                if step.verdict is not None:
                    found[step.verdict] += 1
                if step.verdict not in (None, Verdict.SOUND, Verdict.UNKNOWN):
                    bad.append(f"  {step.verdict.value}: {logs.escaped(step.path)}")

    _with_storage(run)
    click.echo(", ".join([f"{found.total()} files", *_counts(found)]))
    for line in bad:
        click.echo(line)
    if bad:
        sys.exit(1)


def _with_storage(run: Callable[[Storage], Awaitable[None]]) -> None:
    async def opened() -> None:
        async with open_database(load(), media_type=lambda name: media_type(None, name)) as stores:
            await run(stores.storage)

    with _in_a_sentence():
        prepare_database(load(), create=False)
        asyncio.run(opened())


def _counts(found: Mapping[Outcome, int] | Mapping[Verdict, int]) -> list[str]:
    return [f"{n} {kind.value}" for kind, n in found.items()]


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
