"""Benchmarks with a command and tables of their own, which compare Seekable with itself."""

import importlib.util
import subprocess
import sys

from benchmarks.contestants import ROOT

OTHERS = {
    "lists": ("benchmarks.million", "Lists of a library of 1,000,000 files, and of 1,000"),
    "profile": ("benchmarks.profiling", "What is left of a range of 64 KiB: a profile of the event loop"),
    "chunks": ("benchmarks.chunks", "Lengths of chunks and of batches in GridFS"),
}
"""By the name for --only."""

FULL_RUN = ("lists", "profile")


def run_other(name: str) -> str:
    """Its table, as Markdown."""
    module, title = OTHERS[name]
    if importlib.util.find_spec(module) is None:
        return f"### {title}\n\nNot measured: there is no {module}."
    done = subprocess.run(
        [sys.executable, "-m", module], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False
    )
    failed = f"\n\nIt failed, with status {done.returncode}." if done.returncode else ""
    return f"### {title}\n\n```\n{done.stdout.strip()}\n```{failed}"
