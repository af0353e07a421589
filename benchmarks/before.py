"""The code of an earlier commit, which runs beside the present one: `--before COMMIT`."""

import io
import subprocess
import tarfile
from pathlib import Path

from benchmarks.contestants import ROOT

BEGINNING = "34fed27"
"""The commit before the second round of work on speed; the goals of small uploads refer to it."""


class CommitMissing(Exception):
    """Git cannot provide the commit; the message is the reason."""


def code_of(commit: str) -> Path:
    """Return a folder with the code of a commit below `build/before`, unpacked if it is not there yet.

    A path to a checkout is returned as it is. Raises CommitMissing, for instance in a shallow clone.
    """
    if (Path(commit) / "app" / "main.py").exists():
        return Path(commit).resolve()
    full = _git("rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}").decode().strip()
    folder = ROOT / "build" / "before" / full
    if not folder.exists():
        unfinished = folder.with_name(f"{full}.unfinished")
        with tarfile.open(fileobj=io.BytesIO(_git("archive", full))) as archive:
            archive.extractall(unfinished, filter="data")
        unfinished.rename(folder)
    return folder


def _git(*arguments: str) -> bytes:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=False)
    except FileNotFoundError:
        raise CommitMissing("git is not installed") from None
    if done.returncode != 0:
        reason = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise CommitMissing(reason or "this clone does not have the commit")
    return done.stdout
