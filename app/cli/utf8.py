"""File names in UTF-8, whatever the locale."""

import os
import sys

from app.settings import ConfigurationError


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
