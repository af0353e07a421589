"""Benchmarks with a command and tables of their own, which compare Seekable with itself."""

import importlib.util
import signal
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
    """Its table, as Markdown. What it prints is seen meanwhile, too."""
    module, title = OTHERS[name]
    if importlib.util.find_spec(module) is None:
        return f"### {title}\n\nNot measured: there is no {module}."
    said = []
    with subprocess.Popen([sys.executable, "-m", module], cwd=ROOT, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        try:
            for line in run.stdout:
                said.append(line)
                print(line, end="", file=sys.stderr, flush=True)
        except BaseException:
            run.send_signal(signal.SIGINT)  # it has something to clean up
            raise
    failed = f"\n\nIt failed, with status {run.returncode}." if run.returncode else ""
    return f"### {title}\n\n```\n{''.join(said).strip()}\n```{failed}"
