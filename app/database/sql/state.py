"""Where the database of a read-only library is: in the user's state folder (XDG Base Directory)."""

import os
from pathlib import Path

from app.settings import ConfigurationError, Settings
from app.storage.read_only_disk import is_on_read_only_file_system, place_of


def is_read_only(settings: Settings) -> bool:
    """Return whether no file of this folder can be changed, by its file system or by the settings."""
    return settings.read_only or is_on_read_only_file_system(settings.files_dir)


def state_file(settings: Settings, suffix: str) -> Path:
    """Return the path of what belongs to a folder of files, by the folder's device and inode.

    Raises ConfigurationError if the folder is not there, or the state folder is in it.
    """
    files_dir = settings.files_dir
    try:
        place = place_of(files_dir.stat())
    except OSError as error:
        raise ConfigurationError(f"SEEKABLE_FILES_DIR={files_dir}: {error.strerror}.") from None
    folder = _state_folder()
    if any(at.exists() and at.samefile(files_dir) for at in (folder, *folder.parents)):
        raise ConfigurationError(
            f"The database of a read-only library would be in the library itself ({folder}). Set "
            "SEEKABLE_DATABASE_URL or XDG_STATE_HOME to a place outside of it."
        )
    return folder / f"{place}{suffix}"


def make_state_folder(path: Path) -> None:
    """Make the folder, for this user alone. Raises ConfigurationError."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"{path}, for the database of a read-only library, cannot be made: {error.strerror}. Set "
            "SEEKABLE_DATABASE_URL or XDG_STATE_HOME."
        ) from None


def _state_folder() -> Path:
    named = os.environ.get("XDG_STATE_HOME", "")
    # A relative path does not count, as the specification has it.
    home = named if os.path.isabs(named) else os.path.expanduser("~/.local/state")
    if not os.path.isabs(home):
        raise ConfigurationError(
            "This user has no home folder for the database of a read-only library. Set XDG_STATE_HOME or "
            "SEEKABLE_DATABASE_URL."
        )
    return Path(home) / "seekable"
