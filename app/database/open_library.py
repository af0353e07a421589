"""Types and rules that every backend uses to open a library."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from app.accounts.store import AccountStore
from app.database.change_listener import ChangeSource
from app.settings import Settings
from app.storage.backend import Backend
from app.storage.contract import CopyRecords
from app.storage.leases import LeaseStore

NEWER_SCHEMA = "The database was made by a newer Seekable. Install that version, or a later one."
"""The message about a database whose schema this version does not know."""


@dataclass(frozen=True)
class OpenLibrary:
    """The blocking parts of an open library, as each backend opens them."""

    backend: Backend
    accounts: AccountStore | None
    leases: LeaseStore
    copies: CopyRecords
    library_id: str | None
    read_only: bool
    open_change_source: Callable[[], ChangeSource | None]


def is_read_only(settings: Settings) -> bool:
    """Return whether no file can be changed, by the settings or because of the folder's file system."""
    if settings.read_only or settings.storage == "gridfs":
        return settings.read_only
    return is_on_read_only_file_system(settings.files_dir)


def is_on_read_only_file_system(folder: Path) -> bool:
    """Return whether the folder exists, on a file system that is mounted read-only."""
    try:
        return folder.is_dir() and bool(os.statvfs(folder).f_flag & os.ST_RDONLY)
    except OSError:
        return False
