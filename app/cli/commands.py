"""The `seekable` command."""

import asyncio
import logging
import os
import shlex
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    ExitStack,
    aclosing,
    contextmanager,
    suppress,
)
from datetime import timedelta
from functools import partial
from signal import SIGTERM
from socket import AF_UNIX, socket
from typing import Any

import click

from app import logs
from app.accounts.factories import new_invite
from app.cli.account_commands import account
from app.cli.doctor import IGNORES_CASE, doctor
from app.cli.failures import in_a_sentence
from app.database import (
    Stores,
    check_apart,
    is_read_only,
    open_accounts,
    open_database,
    prepare_database,
)
from app.database.filesystem.doctor_checks import ignores_case
from app.library.copying import LEFT_BEHIND, CopyOutcome, Target, copy, find_gone, remove_gone
from app.server.listen import activated_listeners, listen, listener_url, reachable
from app.server.unix_socket import unix_listener
from app.settings import ConfigurationError, Settings, load, load_target
from app.storage.contract import Storage
from app.storage.errors import OutOfSpace, StorageError
from app.storage.maintenance import Integrity, ScanOutcome
from app.storage.types import FileInfo, Key


def ensure_utf8() -> None:
    """Start this process anew in Python's UTF-8 mode where its locale has another encoding.

    Names on the disk would else depend on the locale of each start: `ü` of one would be no name for
    another, and what Latin-1 lacks could not be stored. Python turns the mode on by itself for the locales C
    and POSIX alone (PEP 540). Raises ConfigurationError if the mode cannot be turned on.
    """
    if sys.getfilesystemencoding() == "utf-8":
        return
    if os.environ.get("PYTHONUTF8") == "1":  # with -E or -I Python does not look
        raise ConfigurationError(
            f"Names of files would be in {sys.getfilesystemencoding()}. Start Python with -X utf8."
        )
    os.environ["PYTHONUTF8"] = "1"
    os.execv(sys.executable, sys.orig_argv)


_log = logging.getLogger("seekable")

_FAULTS = {Integrity.DAMAGED, Integrity.CHANGED, Integrity.MISSING, Integrity.UNREADABLE}
_LEFT = {ScanOutcome.UNFINISHED, ScanOutcome.UNREADABLE}
_GO_ON = "What is copied stays; run the same command again to go on."


@click.group()
@click.version_option(package_name="seekable")
def main() -> None:
    """A small, fast, self-hosted media server. Settings are read from SEEKABLE_* and from .env."""
    with in_a_sentence():
        ensure_utf8()
    logs.configure()


main.add_command(account)
main.add_command(doctor)


@main.command("serve")
@click.option("--host", help="Address to listen on (SEEKABLE_HOST, 127.0.0.1).")
@click.option("--port", type=click.IntRange(0, 65535), help="Port, 0 for a free one (SEEKABLE_PORT, 8000).")
@click.option("--uds", metavar="PATH", help="Unix socket to listen on, in place of an address.")
@click.option("--reload", is_flag=True, help="Start again whenever the code changes, for development.")
def serve_command(host: str | None, port: int | None, uds: str | None, reload: bool) -> None:
    """Serve the library. An SQL database is migrated first.

    Sockets that systemd opened (a .socket unit) are taken in place of an address.
    """
    if uds is not None and (host, port) != (None, None):
        raise click.UsageError("--uds takes the place of --host and --port.")
    with ExitStack() as stack:
        with in_a_sentence():
            settings = load(lambda settings: logs.configure(settings.log_format))
            # Before the database is touched.
            listeners, host = _listeners(settings, host, port, uds, stack)
            prepare_database(settings)  # what is wrong with it is said here, and not in a traceback
            sign_up = _first_sign_up(settings, _base(settings, listeners[0], host))

        # Here, because the other commands need no web server.
        from app.server.serving import serve, serve_reloading  # noqa: PLC0415

        announce = partial(_announce, settings, listeners[0], host, sign_up)
        if reload:
            announce()
            serve_reloading(settings, listeners)
        else:
            serve(settings, listeners, announce)


@main.command()
def migrate() -> None:
    """Bring the database to the newest schema."""
    with in_a_sentence():
        prepare_database(load())


@main.command()
def scan() -> None:
    """Take note of files that were put there, changed, moved or removed by hand.

    The exit status is 1 if anything could not be read; it is named.
    """
    found: Counter[ScanOutcome] = Counter()

    async def run(storage: Storage) -> None:
        found.update(await _scan(storage))

    _with_storage(run)
    if ScanOutcome.UNREADABLE in found:
        sys.exit(1)


async def _scan(storage: Storage) -> Counter[ScanOutcome]:
    """What was done, and how often."""
    found: Counter[ScanOutcome] = Counter()
    files = 0
    with _Bar("Scanning", await storage.estimate_file_count()) as bar:
        async for step in storage.scan():
            files += step.files
            for finding in step.findings:
                found[finding.outcome] += 1
                if finding.reason:
                    bar.say(finding.outcome.value, finding.path, finding.reason)
            bar.advance(step.files + sum(bool(finding.reason) for finding in step.findings))
    click.echo(", ".join([f"{files} files", *_counts(found)]))
    return found


@main.command()
def verify() -> None:
    """Read every file and name those that no longer match their hash; the exit status is then 1."""
    found: Counter[Integrity] = Counter()

    async def run(storage: Storage) -> None:
        with _Bar("Verifying", (await storage.usage()).size) as bar:
            async for step in storage.verify():
                if step.verdict is not None:
                    found[step.verdict] += 1
                if step.verdict in _FAULTS:
                    bar.say(step.verdict.value, step.path)
                bar.advance(step.size)

    _with_storage(run)
    click.echo(", ".join([f"{found.total()} files", *_counts(found)]))
    if found.keys() & _FAULTS:
        sys.exit(1)


@main.command("copy")
@click.option(
    "--to", "storage", type=click.Choice(["filesystem", "gridfs"]), help="What the other is stored in."
)
@click.option("--files-dir", help="Its folder, with --to filesystem.")
@click.option("--database-url", help="Its database, with --to filesystem; an SQLite file by default.")
@click.option("--mongodb-url", help="Its database, with --to gridfs.")
@click.option("--mirror", is_flag=True, help="Remove copies of files that are gone here; asks first.")
@click.option("--yes", is_flag=True, help="With --mirror, remove them without a question.")
def copy_command(mirror: bool, yes: bool, **options: str | None) -> None:
    """Copy all files from the library of the settings to another, which is made if there is none.

    Run it again to go on where it was stopped, or to bring what is new. Only earlier copies that have not
    changed there since are written over, or, with --mirror, removed. The exit status is 1 if any file was
    left behind.

    In place of each option there may be a setting SEEKABLE_COPY_TO_STORAGE, SEEKABLE_COPY_TO_MONGODB_URL and
    so on: others on this machine can see the options of a command, and passwords in them.
    """
    left_behind: set[object] = set()
    over: list[FileInfo] = []

    async def copy_all(source: Storage, to: Target) -> None:
        left_behind.update(LEFT_BEHIND & (await _copy(source, to)).keys())

    async def begin(source: Storage, to: Target) -> None:
        # What other programs put there is brought, too.
        left_behind.update(_LEFT & (await _scan(source)).keys())
        if mirror:
            _check_known(to)
            over.extend([info async for info in find_gone(source, to)])
        else:
            await copy_all(source, to)

    async def go_on(source: Storage, to: Target) -> None:
        await _remove(source, to, over)  # first: what comes may need their room, or their names
        await copy_all(source, to)

    try:
        with in_a_sentence():
            settings, target = load(target=options["files_dir"]), load_target(**options)
            check_apart(settings, target)
        _between(settings, target, begin)
        if mirror:  # asked while no event loop runs, because a question would keep Ctrl-C from it
            if over and not yes and not _may_remove(over):
                over.clear()
            _between(settings, target, go_on)
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise click.ClickException(f"Stopped. {_GO_ON}") from None
    if left_behind:
        sys.exit(1)


def _between(settings: Settings, target: Settings, run: Callable[[Storage, Target], Awaitable[None]]) -> None:
    """Open both libraries, and run it."""

    async def opened(source: Stores) -> None:
        # asyncio does the same on Ctrl-C: what is under way is left in good order.
        asyncio.get_running_loop().add_signal_handler(SIGTERM, partial(_cancel, asyncio.current_task()))
        async with AsyncExitStack() as stack:
            with _said_of_target():
                await asyncio.to_thread(prepare_database, target)
                stores = await stack.enter_async_context(_opened(target))
                stores.storage.check_changeable()
            await run(source.storage, Target(stores.storage, stores.copies, source.library_id))

    _with_stores(opened, settings)


def _check_known(to: Target) -> None:
    """Raise ConfigurationError if copies cannot be told from those of another library."""
    if to.source is None:
        raise ConfigurationError(
            "A read-only library without an id of its own cannot be mirrored, because another disk may be "
            "mounted in its place. Leave --mirror away."
        )


def _may_remove(over: Sequence[FileInfo]) -> bool:
    """Name the files and ask. Raises ClickException where nobody can answer."""
    for info in over:
        click.echo(_line("gone", info.key))
    what = f"{len(over)} files ({sum(info.size for info in over)} bytes)"
    if not sys.stdin.isatty():
        raise click.ClickException(
            f"{what} would be removed there. Add --yes to remove them, or leave --mirror away."
        )
    return click.confirm(f"Remove these {what} from the library to copy to?", err=True)


async def _remove(source: Storage, to: Target, over: Sequence[FileInfo]) -> None:
    removed = [info for info in over if await remove_gone(source, to, info)]
    for info in removed:
        click.echo(_line("removed", info.key))
    if removed:
        click.echo(f"{len(removed)} files removed, {sum(info.size for info in removed)} bytes")


def _line(*parts: str | Key) -> str:
    """Return what happened to a file, on one line; a library other than the shared one is named."""
    texts: list[str] = []
    for part in parts:
        texts += [part] if isinstance(part, str) else [*filter(None, [part.library]), part.path]
    return ": ".join(map(logs.escaped, texts))


def _cancel(task: asyncio.Task[None] | None) -> None:
    assert task is not None
    task.cancel()


@contextmanager
def _said_of_target() -> Iterator[None]:
    try:
        yield
    except (ConfigurationError, StorageError) as error:
        raise type(error)(f"The library to copy to: {error}") from error


async def _copy(source: Storage, target: Target) -> Counter[CopyOutcome]:
    """What became of the files, and of how many."""
    found: Counter[CopyOutcome] = Counter()
    size = 0
    try:
        with _Bar("Copying", (await source.usage()).size) as bar:
            async with aclosing(copy(source, target, bar.advance)) as files:
                async for file in files:
                    found[file.outcome] += 1
                    size += file.size
                    if file.reason:
                        bar.say(file.outcome.value, file.key, file.reason)
    except StorageError as error:
        raise type(error)(f"{error} {_GO_ON}") from error
    finally:
        click.echo(", ".join([f"{found.total()} files", *_counts(found), f"{size} bytes copied"]))
    return found


class _Bar:
    """A progress bar on standard error, and lines on standard output that do not run into it."""

    def __init__(self, label: str, length: int) -> None:
        self._bar = click.progressbar(length=length, label=label, file=sys.stderr)

    def __enter__(self) -> "_Bar":
        self._bar.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.render_finish()

    def advance(self, steps: int) -> None:
        self._bar.update(steps)

    def say(self, *parts: str | Key) -> None:
        if sys.stderr.isatty():
            click.echo("\r\x1b[K", file=sys.stderr, nl=False)
            self._bar._last_line = None  # or the same line would not be drawn again
        click.echo(_line(*parts))
        self._bar.render_progress()


def _with_storage(run: Callable[[Storage], Awaitable[object]]) -> None:
    async def opened(stores: Stores) -> None:
        await run(stores.storage)

    _with_stores(opened)


def _with_stores(run: Callable[[Stores], Awaitable[object]], settings: Settings | None = None) -> None:
    async def opened(settings: Settings) -> None:
        async with _opened(settings) as stores:
            await run(stores)

    with in_a_sentence():
        settings = settings or load()
        prepare_database(settings, create=False)
        asyncio.run(opened(settings))


def _opened(settings: Settings) -> AbstractAsyncContextManager[Stores]:
    return open_database(settings, serving=False)


def _counts(found: Mapping[Any, int]) -> list[str]:
    return [f"{n} {kind.value}" for kind, n in found.items()]


def _listeners(
    settings: Settings, host: str | None, port: int | None, uds: str | None, stack: ExitStack
) -> tuple[list[socket], str | None]:
    """Listen at the Unix socket, or at the address, of the options and settings; systemd's sockets go first.

    Also returns the host that was chosen, if any was. Raises ConfigurationError.
    """
    if given := activated_listeners():
        if (host, port, uds) != (None, None, None):
            raise ConfigurationError("systemd opened the sockets: leave --host, --port and --uds out.")
        for listener in given:
            if listener.family != AF_UNIX:
                _check_host(listener.getsockname()[0], settings)
        return given, None
    if uds is not None:
        return [stack.enter_context(unix_listener(uds))], None
    host = host if host is not None else settings.host
    _check_host(host, settings)
    return listen(host, port if port is not None else settings.port), host


def _check_host(host: str, settings: Settings) -> None:
    from app.resources.middleware.host_guard import is_loopback  # noqa: PLC0415

    if settings.access == "loopback" and host != "localhost" and not is_loopback(host):
        raise ConfigurationError(
            f"Anybody who can reach {host} could upload and delete. Set SEEKABLE_ACCESS=accounts to let in "
            "only those who have an account, or open to allow that, or listen on 127.0.0.1."
        )


def _first_sign_up(settings: Settings, base: str) -> str | None:
    """Note where the server is reached, for `account invite`. Return the path where the administrator signs
    up, if there is no account yet."""
    if settings.access != "accounts":
        return None
    with open_accounts(settings, create=True) as store:
        if store.announced() != base:
            with suppress(OutOfSpace):  # the server starts all the same, to make room
                store.announce(base)
        if settings.sign_up == "closed" or store.count():
            return None
        if settings.sign_up == "open":
            return "/sign-up"
        invite, secret = new_invite(timedelta(days=1))
        store.add_invite(invite)
        return f"/sign-up?invite={secret}"


def _announce(settings: Settings, listener: socket, host: str | None, sign_up: str | None) -> None:
    user = " -u EMAIL" if settings.access == "accounts" else ""
    lines = [f"Seekable serves {logs.escaped(settings.location)}"]
    base = _base(settings, listener, host)
    if listener.family == AF_UNIX and settings.base_url is None:
        path = listener_url(listener).removeprefix("unix:")
        is_abstract = path.startswith("@")
        option = "--abstract-unix-socket" if is_abstract else "--unix-socket"
        path = shlex.quote(path.removeprefix("@"))
        curl = f"curl {option} {logs.escaped(path)}{user}"
        lines += [
            f"  socket  {logs.escaped(path)}",
            f"  upload  {curl} -F file=@film.mp4 {base}/file/upload",
            f"  play    {curl} {base}/files/film.mp4 | vlc -",
        ]
    else:
        lines += [
            f"  docs    {base}/docs",
            f"  upload  curl{user} -F file=@film.mp4 {base}/file/upload",
            f"  play    vlc {base}/files/film.mp4",
        ]
    if settings.storage == "filesystem" and ignores_case(settings.files_dir):
        lines += [f"  note    This folder {IGNORES_CASE}"]
    if is_read_only(settings):
        lines = [line for line in lines if not line.startswith("  upload")]
    if sign_up:
        lines += [f"  sign up {base}{sign_up}", "          The first account is the administrator's."]
    # For a person to read, unless it is programs that read what this process says.
    if settings.log_format == "json":
        for line in lines:
            _log.info("%s", line.strip())
    else:
        click.echo("\n".join(lines))


def _base(settings: Settings, listener: socket, host: str | None) -> str:
    """The address of the server for a client on this machine, by the name of the host that was chosen."""
    if settings.base_url is not None:
        return settings.base_url
    if listener.family == AF_UNIX:
        return "http://localhost"
    address, port = listener.getsockname()[:2]
    return f"http://{reachable(address if host is None else host, port)}"
