"""The filesystem backend: ordinary files in a folder, with a row for each in an SQL database."""

from dataclasses import dataclass


@dataclass(slots=True)
class Limits:
    """Times and sizes by which the backend decides. Tests change them, also while it is open."""

    stable_after_s: float = 2
    """A new or changed file counts as complete when it has been unchanged for so long, if the system does not
    report whether a program has it open for writing; the setting STABLE_AFTER."""

    written_for_s: float = 60
    """A file that a program has open for writing counts as complete when it has been unchanged for so long:
    some programs never close their files."""

    refresh_s: float = 1
    """Time that a list may spend on a search for new files; a larger folder waits for the next scan."""

    retry_after_s: float = 60
    """Time after which a list searches such a folder again."""

    retry_new_after_s: float = 2
    """Like `retry_after_s`, if the search found only files that are still being written."""

    max_folders_checked: int = 200
    """Folders below a list that are checked for changes without blocking."""

    rest_factor: float = 20
    """After an unproductive search below a folder with more folders than that, the pause before the next one,
    as a multiple of its duration."""

    big_folder: int = 10_000
    """A folder of so many files is not searched because of this process's own change. (A file that another
    program adds during that change is found by the next scan.)"""

    batch: int = 256
    """Files that are compared at once, or reconciled in one transaction."""

    folder_tick_s: float = 0.1
    """Time after a change of a folder within which another change may get the same time."""

    cache_after_s: float = 2
    """Time that a file must have been unchanged before its row is cached: more than a tick of any file
    system's clock."""

    cache_for_s: float = 10
    """Time for which a cached row is used without reading it from the database again."""

    max_cached_rows: int = 4096
