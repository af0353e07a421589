"""`seekable scan`, `verify` and `copy`: work over all files of a library."""

import asyncio
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, contextmanager
from enum import Enum
from signal import SIGTERM
from typing import Any

import click

from app.cli.options import Output, check_has_folder, folder_argument, output_options
from app.database import Stores, check_different_libraries, open_stores, prepare_database
from app.library.copying import LEFT_BEHIND, CopyOutcome, Target, copy, find_gone, remove_gone
from app.settings import ConfigurationError, Settings, load, load_target, override
from app.storage.contract import Storage
from app.storage.errors import StorageError
from app.storage.maintenance import Integrity, ScanOutcome
from app.storage.types import FileInfo, Key

_FAULTS = {Integrity.DAMAGED, Integrity.CHANGED, Integrity.MISSING, Integrity.UNREADABLE}
_LEFT = {ScanOutcome.UNFINISHED, ScanOutcome.UNREADABLE}
_for_scripts = output_options(
    "Print only the files with problems, and no progress.",
    json_help="Print JSON for scripts, one object per line.",
)
_CONTINUE = "Files copied so far are kept. Run the same command again to continue."


@click.command()
@folder_argument
@_for_scripts
def scan(output: Output, folder: str | None) -> None:
    """Register files that other programs added, changed, moved or removed in FOLDER.

    Without FOLDER, scans the library of the settings.

    Lists files that cannot be read; the exit status is then 1.

    With --json, prints an object with path and outcome for each file that changed or cannot be read, and
    last the counts.
    """
    found: Counter[ScanOutcome] = Counter()

    async def run(storage: Storage) -> None:
        found.update(await _scan(storage, output))

    _with_storage(run, folder)
    if ScanOutcome.UNREADABLE in found:
        sys.exit(1)


async def _scan(storage: Storage, output: Output) -> Counter[ScanOutcome]:
    found: Counter[ScanOutcome] = Counter()
    files = 0
    with _Bar("Scanning", await storage.estimate_file_count(), output) as bar:
        async for step in storage.scan():
            files += step.files
            for finding in step.findings:
                found[finding.outcome] += 1
                if finding.reason or (output.as_json and not output.quiet):
                    bar.print(finding.outcome, finding.path, finding.reason)
            bar.advance(step.files + sum(bool(finding.reason) for finding in step.findings))
    _print_counts(output, found, files)
    return found


@click.command()
@folder_argument
@_for_scripts
def verify(output: Output, folder: str | None) -> None:
    """Read every file in FOLDER, and list those that do not match their hash; the exit status is then 1.

    Without FOLDER, verifies the library of the settings.

    With --json, prints an object with path and outcome for each of them, and last the counts.
    """
    found: Counter[Integrity] = Counter()

    async def run(storage: Storage) -> None:
        with _Bar("Verifying", (await storage.usage()).size, output) as bar:
            async for step in storage.verify():
                if step.verdict is not None:
                    found[step.verdict] += 1
                if step.verdict in _FAULTS:
                    bar.print(step.verdict, step.path)
                bar.advance(step.size)

    _with_storage(run, folder)
    _print_counts(output, found, found.total())
    if found.keys() & _FAULTS:
        sys.exit(1)


@click.command("copy")
@folder_argument
@click.option("--to", "storage", type=click.Choice(["filesystem", "gridfs"]), help="Storage of the target.")
@click.option("--files-dir", help="Folder of the target, with --to filesystem.")
@click.option(
    "--database-url", help="Database of the target, with --to filesystem; an SQLite file by default."
)
@click.option("--mongodb-url", help="Database of the target, with --to gridfs.")
@click.option("--mirror", is_flag=True, help="Remove copies of files that no longer exist here; asks first.")
@click.option("--yes", is_flag=True, help="With --mirror, do not ask.")
@_for_scripts
def copy_command(output: Output, folder: str | None, mirror: bool, yes: bool, **options: str | None) -> None:
    """Copy all files in FOLDER to another library, which is created if necessary.

    Without FOLDER, copies the library of the settings.

    Run it again to continue an interrupted copy, or to copy new files. Only earlier copies that have not
    changed in the target are replaced, or, with --mirror, removed. The exit status is 1 if any file was not
    copied.

    Each option has a setting: SEEKABLE_COPY_TO_STORAGE, SEEKABLE_COPY_TO_MONGODB_URL and so on. Prefer the
    settings for passwords: other users of this machine can see the options of a command.

    With --json, the objects of its steps (scan, mirror, copy) have a field `step`.
    """
    left_behind: set[object] = set()
    gone: list[FileInfo] = []
    removing = output.with_fields(step="mirror")

    async def copy_all(source: Storage, to: Target) -> None:
        left_behind.update(LEFT_BEHIND & (await _copy(source, to, output.with_fields(step="copy"))).keys())

    async def scan_first(source: Storage, to: Target) -> None:
        # So that files of other programs are copied, too.
        left_behind.update(_LEFT & (await _scan(source, output.with_fields(step="scan"))).keys())
        if mirror:
            _check_known(to)
            gone.extend([info async for info in find_gone(source, to)])
        else:
            await copy_all(source, to)

    async def mirror_changes(source: Storage, to: Target) -> None:
        await _remove(source, to, gone, removing)  # first: new files may need their space or their names
        await copy_all(source, to)

    override(files_dir=folder)
    try:
        settings, target = load(target=options["files_dir"]), load_target(**options)
        check_has_folder(settings, folder)
        check_different_libraries(settings, target)
        _with_both(settings, target, scan_first)
        if mirror:
            # Ask while no event loop runs: it would not receive Ctrl-C during the question.
            if gone and not yes and not _may_remove(gone, removing):
                gone.clear()
            _with_both(settings, target, mirror_changes)
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise click.ClickException(f"Stopped. {_CONTINUE}") from None
    if left_behind:
        sys.exit(1)


def _with_both(
    settings: Settings, target: Settings, run: Callable[[Storage, Target], Awaitable[None]]
) -> None:

    async def run_step(source: Stores) -> None:
        # As asyncio does on Ctrl-C: cancellation discards the file in progress cleanly.
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(SIGTERM, task.cancel)
        async with AsyncExitStack() as stack:
            with _errors_name_target():
                await asyncio.to_thread(prepare_database, target)
                stores = await stack.enter_async_context(open_stores(target, serving=False))
                stores.storage.check_changeable()
            await run(source.storage, Target(stores.storage, stores.copies, source.library_id))

    _with_stores(settings, run_step)


def _check_known(to: Target) -> None:
    """Raise ConfigurationError if the source has no lasting id, by which its copies are recognised."""
    if to.source is None:
        raise ConfigurationError(
            "A read-only library without its own id cannot be mirrored, because another disk may be mounted "
            "in its place. Omit --mirror."
        )


def _may_remove(gone: Sequence[FileInfo], output: Output) -> bool:
    """List the files, and ask for confirmation. Raises ClickException if standard input is not a terminal."""
    for info in gone:
        output.write(_line("gone", info.key), **_fields("gone", info.key))
    files = f"{_file_count(len(gone))} ({sum(info.size for info in gone)} bytes)"
    if not sys.stdin.isatty():
        raise click.ClickException(
            f"{files} would be removed from the target. Add --yes to remove them, or omit --mirror."
        )
    return click.confirm(f"Remove {files} from the target?", err=True)


async def _remove(source: Storage, to: Target, gone: Sequence[FileInfo], output: Output) -> None:
    removed = [info for info in gone if await remove_gone(source, to, info)]
    for info in removed:
        output.inform(_line("removed", info.key), **_fields("removed", info.key))
    if removed:
        size = sum(info.size for info in removed)
        output.inform(
            f"{_file_count(len(removed))} removed, {size} bytes",
            files=len(removed),
            outcomes={"removed": len(removed)},
            bytes=size,
        )


def _line(*parts: str | Key) -> str:
    """Return a line about a file. Names its library, unless it is the shared one."""
    texts: list[str] = []
    for part in parts:
        texts += [part] if isinstance(part, str) else [*filter(None, [part.library]), part.path]
    return ": ".join(texts)


def _fields(outcome: str, file: str | Key) -> dict[str, object]:
    """Return the JSON fields about a file."""
    if isinstance(file, str):
        return {"outcome": outcome, "path": file}
    return {"outcome": outcome, "library": file.library, "path": file.path}


def _identifier(outcome: Enum) -> str:
    return outcome.name.lower()


@contextmanager
def _errors_name_target() -> Iterator[None]:
    try:
        yield
    except (ConfigurationError, StorageError) as error:
        raise type(error)(f"The library to copy to: {error}") from error


async def _copy(source: Storage, target: Target, output: Output) -> Counter[CopyOutcome]:
    found: Counter[CopyOutcome] = Counter()
    size = 0
    try:
        with _Bar("Copying", (await source.usage()).size, output) as bar:
            async with aclosing(copy(source, target, bar.advance)) as files:
                async for file in files:
                    found[file.outcome] += 1
                    size += file.size
                    if file.reason:
                        bar.print(file.outcome, file.key, file.reason)
    except StorageError as error:
        raise type(error)(f"{error} {_CONTINUE}") from error
    finally:
        _print_counts(output, found, found.total(), size)
    return found


class _Bar:
    """A progress bar on standard error, which lines on standard output do not corrupt. Hidden by --quiet."""

    def __init__(self, label: str, length: int, output: Output) -> None:
        self._output = output
        self._bar = click.progressbar(length=length, label=label, file=sys.stderr, hidden=output.quiet)

    def __enter__(self) -> "_Bar":
        self._bar.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.render_finish()

    def advance(self, steps: int) -> None:
        self._bar.update(steps)

    def print(self, outcome: Enum, file: str | Key, reason: str = "") -> None:
        """Print that a command has found or done this to a file."""
        if sys.stderr.isatty() and not self._output.quiet:
            click.echo("\r\x1b[K", file=sys.stderr, nl=False)
            self._bar._last_line = None  # click does not draw an unchanged line again
        fields = _fields(_identifier(outcome), file) | ({"reason": reason} if reason else {})
        self._output.write(_line(outcome.value, file, *filter(None, [reason])), **fields)
        self._bar.render_progress()


def _with_storage(run: Callable[[Storage], Awaitable[object]], folder: str | None) -> None:
    override(files_dir=folder)
    settings = load()
    check_has_folder(settings, folder)
    _with_stores(settings, lambda stores: run(stores.storage))


def _with_stores(settings: Settings, run: Callable[[Stores], Awaitable[object]]) -> None:
    async def open_and_run() -> None:
        async with open_stores(settings, serving=False) as stores:
            await run(stores)

    prepare_database(settings, create=False)
    asyncio.run(open_and_run())


def _file_count(count: int) -> str:
    return "1 file" if count == 1 else f"{count} files"


def _print_counts(
    output: Output, found: Mapping[Any, int], files: int, copied_bytes: int | None = None
) -> None:
    texts = [_file_count(files), *(f"{count} {outcome.value}" for outcome, count in found.items())]
    fields: dict[str, object] = {"files": files, "outcomes": {_identifier(o): n for o, n in found.items()}}
    if copied_bytes is not None:
        texts.append(f"{copied_bytes} bytes copied")
        fields["bytes"] = copied_bytes
    output.inform(", ".join(texts), **fields)
