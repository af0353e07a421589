"""Benchmarks with a command and tables of their own, which compare Seekable with itself."""

import importlib.util
import signal
import subprocess
import sys
from pathlib import Path

from benchmarks.contestants import ROOT

OTHERS: dict[str, tuple[str, ...]] = {
    "lists": (
        "Lists of a library of 1,000,000 files, and of one of 1,000",
        "benchmarks.large_library",
        *("--engines", "sqlite", "--json", "{folder}/library.json"),
    ),
    "profile": ("A profile of the event loop during ranges of 64 KiB", "benchmarks.profiling"),
    "chunks": ("Sizes of chunks and of reads in GridFS", "benchmarks.chunks"),
}
"""Title, module and arguments, by the name for --only; the folder is that for results."""

FULL_RUN = ("lists", "profile")


def run_other(name: str, folder: Path) -> str:
    """Run a benchmark, copy its output to stderr as it comes, and return it as Markdown."""
    title, module, *arguments = OTHERS[name]
    if importlib.util.find_spec(module) is None:
        return f"### {title}\n\nNot measured: {module} is missing."
    command = [sys.executable, "-m", module, *(word.format(folder=folder) for word in arguments)]
    lines = []
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        try:
            for line in run.stdout:
                lines.append(line)
                print(line, end="", file=sys.stderr, flush=True)
        except BaseException:
            run.send_signal(signal.SIGINT)  # lets the benchmark stop its servers
            raise
    failed = f"\n\nThe benchmark failed with exit status {run.returncode}." if run.returncode else ""
    return f"### {title}\n\n```\n{''.join(lines).strip()}\n```{failed}"
