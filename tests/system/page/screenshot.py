"""Takes docs/screenshot.png of the page, with films in it: `python -m tests.system.page.screenshot`."""

import os
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.support import running
from tests.system.live.conftest import HEADLESS_SHELL, launched_browser

TARGET = Path(__file__).parents[3] / "docs" / "screenshot.png"

FILES = {
    "Buster Keaton/Sherlock Jr. (1924).mp4": 1.1,
    "Concerts/Brandenburg Concerto No. 3.flac": 0.06,
    "A Trip to the Moon (1902).mp4": 0.21,
    "Big Buck Bunny (2008).mkv": 0.87,
    "Metropolis (1927).mkv": 4.6,
    "Nosferatu (1922).mp4": 1.9,
    "Nosferatu (1922).vtt": 0.00004,
    "Poster.jpg": 0.002,
    "The General (1926).mp4": 2.4,
}
"""Names of works in the public domain or under a free licence, with sizes in GB."""


def main() -> None:
    with TemporaryDirectory() as folder:
        films = Path(folder, "films")
        for day, (name, size) in enumerate(FILES.items(), 1):
            file = films / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
            os.truncate(file, int(size * 1e9))  # a sparse file
            then = time.mktime((2026, 11, day + 10, 20, 15, 0, 0, 0, -1))
            os.utime(file, (then, then))
        with running(Path(folder), files_dir=films) as server, launched_browser(HEADLESS_SHELL) as browser:
            page = browser.new_page(viewport={"width": 960, "height": 640})
            page.goto(server.url)
            page.screenshot(path=TARGET)


if __name__ == "__main__":
    main()
