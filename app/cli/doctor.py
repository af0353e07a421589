"""`seekable doctor`: examine the settings, the folder and the databases, and report the findings."""

import platform
import re
import resource
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from threading import Thread
from typing import Any

import click

from app.cli.findings import (
    Finding,
    Level,
    check_access,
    check_database,
    check_folder,
    check_settings,
    fact,
    fix,
)
from app.cli.options import Output, folder_argument, output_options
from app.database.doctor_checks import probe_databases, probe_folder
from app.settings import ConfigurationError, Settings, env_file, override, read, unknown

PROBE_TIMEOUT_S = 15.0
"""Seconds for the folder, and for the databases: a dead network share blocks system calls for ever."""


def describe_program() -> Finding:
    return fact(f"Seekable {version('seekable')} runs on Python {platform.python_version()}.")


def describe_media_tools() -> Finding:
    """Return which programs for films are installed."""
    return fact(
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
        yield from _about("settings", [fix(found.ignored)])
    try:
        settings = read()
        names = unknown(found)
    except ConfigurationError as error:
        yield from _about("settings", [fix(str(error))])
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
        return [fix(f"{name} has not responded for {timeout_s:g} s. Check its disk, network and server.")]


def _descriptors() -> float:
    """Return the limit of open files."""
    hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return float("inf") if hard_limit == resource.RLIM_INFINITY else hard_limit
