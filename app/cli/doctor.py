"""`seekable doctor`: what is wrong with a configuration, and what to do."""

import resource
import sys
from collections.abc import Iterator

import click

from app import logs
from app.cli.diagnosis import Finding, Level, of_database, of_folder, of_settings
from app.cli.sentences import in_a_sentence
from app.database.examining import examine
from app.settings import EnvFile, Settings, env_file, read, unknown
from app.storage.examining import examine_folder


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
