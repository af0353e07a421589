"""Write the measured figures into README.md and docs/benchmarks.md: `make bench ARGS=--publish`.

    .venv/bin/python -m benchmarks.publish [--from build/benchmarks]

writes those of an earlier run again, for instance after a change of this module.

A block of a document stands between two marks, which no renderer of Markdown shows:

    [figures]: # (begin NAME)
    [figures]: # (end NAME)
"""

import argparse
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from benchmarks.cases import GRID, GRID_TUTORIAL
from benchmarks.contestants import BEFORE, BEFORE_GRIDFS, ROOT, SLOW_PATH
from benchmarks.ratios import spread
from benchmarks.report import Results, goals, markdown, measured, number, quartiles
from benchmarks.rounds import CaseResult
from benchmarks.runs import BOUND_SHARE

DOCUMENTS = ("README.md", "docs/benchmarks.md")
RESULTS, LIBRARY = "results.json", "library.json"
"""The files of a run: the cases, and the large library."""
MISSING = "–"
"""Stands for a figure that the run did not measure."""

Library = Mapping[str, Mapping[str, object]]
"""The output of `large_library --json`: by engine, the figures of its operations in the larger library."""

_BLOCK = re.compile(
    r"(?P<begin>^\[figures\]: # \(begin (?P<name>[\w-]+)\)\n).*?(?P<end>^\[figures\]: # \(end (?P=name)\)$)",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Ratio:
    """A row of ratios: the figure of `who` over that of `over`."""

    over: str
    label: str
    case: str
    figure: str
    who: str = "Seekable"


RATIOS = [
    Ratio("nginx", "one client, whole films", "one", "GB/s"),
    Ratio("nginx", "its CPU time per GB", "one", "CPU-s/GB"),
    Ratio("nginx", "16 clients", "16", "GB/s"),
    Ratio("nginx", "64 clients", "64", "GB/s"),
    Ratio("nginx", "ranges of 1 MiB, 8 clients", "1m", "ranges/s"),
    Ratio("nginx", "ranges of 64 KiB, 8 clients", "64k", "ranges/s"),
    Ratio("nginx", "time from a seek on a new connection to the first byte", "seek", "p50 ms"),
    Ratio("nginx", "worst of small answers while 16 download", "ping", "worst ms"),
    Ratio("nginx", "upload by PUT", "put", "GB/s"),
    Ratio("nginx, log", "ranges of 64 KiB, 8 clients, logged", "64k-log", "ranges/s", "Seekable, log"),
    Ratio(SLOW_PATH, "ranges of 64 KiB, 8 clients", "64k", "ranges/s"),
    Ratio("Starlette", "one client, whole films", "one", "GB/s"),
    Ratio("Starlette", "ranges of 64 KiB, 8 clients", "64k", "ranges/s"),
    Ratio("FastAPI form", "upload by form", "form", "GB/s"),
    Ratio(GRID_TUTORIAL, "one client, whole films", "gridfs", "GB/s", GRID),
    Ratio(GRID_TUTORIAL, "ranges of 1 MiB, 8 clients", "gridfs-1m", "ranges/s", GRID),
    Ratio(GRID_TUTORIAL, "ranges of 64 KiB, 8 clients", "gridfs-64k", "ranges/s", GRID),
    Ratio(GRID_TUTORIAL, "upload by form", "gridfs-form", "GB/s", GRID),
    Ratio(BEFORE, "ranges of 1 MiB, 8 clients", "1m", "ranges/s"),
    Ratio(BEFORE, "ranges of 64 KiB, 8 clients", "64k", "ranges/s"),
    Ratio(BEFORE, "PUT of 1 KB, one client", "put-1k", "answers/s"),
    Ratio(BEFORE, "PUT of 1 KB, 16 clients", "put-1k-16", "answers/s"),
    Ratio(BEFORE, "CPU time of a list of 1,000 files", "list", "CPU ms"),
    Ratio(BEFORE_GRIDFS, "ranges of 1 MiB, 8 clients", "gridfs-1m", "ranges/s", GRID),
    Ratio(BEFORE_GRIDFS, "ranges of 64 KiB, 8 clients", "gridfs-64k", "ranges/s", GRID),
    Ratio(BEFORE_GRIDFS, "PUT of 1 KB, one client", "gridfs-put-1k", "answers/s", GRID),
    Ratio(BEFORE_GRIDFS, "PUT of 1 KB, 16 clients", "gridfs-put-1k-16", "answers/s", GRID),
    Ratio(BEFORE_GRIDFS, "CPU time of a list of 1,000 files", "gridfs-list", "CPU ms", GRID),
]  # fmt: skip

README_COLUMNS = {
    "one client, whole films": ("one", "gridfs"),
    "16 clients": ("16", None),
    "ranges of 1 MiB, 8 clients": ("1m", "gridfs-1m"),
    "ranges of 64 KiB, 8 clients": ("64k", "gridfs-64k"),
}
"""The cases of a folder and of GridFS, by the head of the column."""


@dataclass(frozen=True)
class Row:
    """A row of absolute figures. `cases` are tried in order, since folder and GridFS have different ones."""

    label: str
    figure: str
    cases: tuple[str, ...]


SMALL = [
    Row("PUT of 1 KB per second, one client", "answers/s", ("put-1k", "gridfs-put-1k")),
    Row("PUT of 1 KB per second, 16 clients", "answers/s", ("put-1k-16", "gridfs-put-1k-16")),
    Row("its p99, ms", "p99 ms", ("put-1k-16", "gridfs-put-1k-16")),
    Row("CPU time of a list of 1,000 files, ms", "CPU ms", ("list", "gridfs-list")),
    Row("small answer while 16 download, p99, ms", "p99 ms", ("ping",)),
    Row("its worst, ms", "worst ms", ("ping",)),
    Row("small answer while 8 list 1,000 files, p99, ms", "p99 ms", ("ping-lists",)),
    Row("ready after exec, s", "ready after s", ("start",)),
]
MEMORY = [
    Row("resident without clients", "idle RSS MiB", ("start",)),
    Row("growth with 256 slow readers", "RSS growth MiB", ("slow-256",)),
    Row("growth with 1,000 slow readers", "RSS growth MiB", ("slow-1000",)),
    Row("growth during an upload by PUT", "RSS growth MiB", ("put",)),
    Row("growth during an upload by form", "RSS growth MiB", ("form", "gridfs-form")),
]
GRIDFS = [
    Row("bytes from mongod for each of a whole film", "whole film", ("gridfs-asked",)),
    Row("bytes from mongod for each of a range of 1 MiB", "1 MiB ranges", ("gridfs-asked",)),
    Row(f"whole films, as a share {BOUND_SHARE}", BOUND_SHARE, ("gridfs",)),
    Row(f"ranges of 1 MiB, as a share {BOUND_SHARE}", BOUND_SHARE, ("gridfs-1m",)),
]

LIBRARY_ROWS = {
    "a page of a list, in any order and at any depth": r"page: (?:folder|middle|top|everything).*",
    "a page beneath a folder, or of one type": r"page: (?:beneath|type).*",
    "a page of a search": r"search: .*",
    "an open": r"open: .*",
    "the start of the server": r"server ready",
    "the first list of a folder of 100,000 files after the start": r"server: first list of a big folder",
    "a scan, during which the server serves": r"scan",
}
"""The operations of each row, by the names that large_library gives them."""


def publish(folder: Path) -> None:
    """Rewrite the blocks of both documents from the results in this folder.

    The blocks of the large library stay as they are if the run did not measure it.
    """
    found = json.loads((folder / RESULTS).read_text())
    results = {name: CaseResult(**case) for name, case in found["cases"].items()}
    library = folder / LIBRARY
    made = blocks(results, json.loads(library.read_text()) if library.exists() else {}, found["about"])
    for name in DOCUMENTS:
        (ROOT / name).write_text(published((ROOT / name).read_text(), made))


def published(text: str, made: Mapping[str, str]) -> str:
    """Return a document whose blocks have these contents; blocks without new contents stay."""

    def block(found: re.Match[str]) -> str:
        if found["name"] not in made:
            return found[0]
        return f"{found['begin']}\n{made[found['name']]}\n\n{found['end']}"

    return _BLOCK.sub(block, text)


def contents(text: str) -> dict[str, str]:
    """Return the contents of the blocks of a document, by name."""
    return {
        found["name"]: found[0].partition("\n")[2].rpartition("\n")[0].strip()
        for found in _BLOCK.finditer(text)
    }


def blocks(results: Results, library: Library, about: str) -> dict[str, str]:
    """Return the contents of all blocks. A figure that was not measured is an en dash."""
    made = {
        "about": about,
        "goals": goals(results, all_of_them=True),
        "ratios": markdown(("Seekable over", "", "Median", "Quartiles"), _ratios(results)),
        "small": _absolute(results, SMALL, (BEFORE, "Seekable", BEFORE_GRIDFS, GRID)),
        "memory": _absolute(results, MEMORY, ("Seekable", GRID, "nginx", "Starlette")),
        "gridfs": _absolute(results, GRIDFS, (GRID_TUTORIAL, GRID)),
        "overview": markdown(("Seekable over", *README_COLUMNS), _overview(results)),
    }
    if library:
        rows = [(label, _slowest(library, names)) for label, names in LIBRARY_ROWS.items()]
        made["library"] = markdown(("", "Takes"), rows)
        made["page"] = f"In a library of 1,000,000 files, {rows[0][0]}, takes {rows[0][1]} in the storage."
    return made


def _ratios(results: Results) -> Iterable[tuple[str, ...]]:
    for over, rows in groupby(RATIOS, key=lambda row: row.over):
        for number_of_row, row in enumerate(rows):
            yield (
                over if number_of_row == 0 else "",
                row.label,
                *_median(results, row.case, row.figure, row.who, over),
            )


def _overview(results: Results) -> Iterable[tuple[str, ...]]:
    for label, over, gridfs in (
        ("nginx", "nginx", False),
        ("Starlette's `FileResponse`", "Starlette", False),
        ("the usual GridFS tutorial", GRID_TUTORIAL, True),
    ):
        cells = []
        for cases in README_COLUMNS.values():
            case, who = cases[gridfs], GRID if gridfs else "Seekable"
            figure = "GB/s" if case in ("one", "16", "gridfs") else "ranges/s"
            cells.append(_median(results, case, figure, who, over)[0] if case else "")
        yield label, *cells


def _absolute(results: Results, rows: Sequence[Row], names: Sequence[str]) -> str:
    def cell(row: Row, name: str) -> str:
        found = (_median(results, case, row.figure, name, None)[0] for case in row.cases)
        return next((value for value in found if value != MISSING), MISSING)

    return markdown(("", *names), ((row.label, *(cell(row, name) for name in names)) for row in rows))


def _median(results: Results, case: str, figure: str, who: str, over: str | None) -> tuple[str, str]:
    """Return the median and the quartiles of a figure, or of its ratio to that of `over`."""
    found = measured(results[case], who, figure, over) if case in results else []
    if not found:
        return MISSING, MISSING
    return number(spread(found).median), quartiles(spread(found))


def _slowest(library: Library, names: str) -> str:
    """Return the greatest figure of these operations in SQLite."""
    found = [value for name, value in library.get("sqlite", {}).items() if re.fullmatch(names, name)]
    times = [value for value in found if isinstance(value, float)]
    if times:
        return f"up to {number(max(times))} ms"
    return str(found[0]).partition(" in ")[0] if found else MISSING


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.publish", description=__doc__.partition("\n")[0]
    )
    parser.add_argument(
        "--from", dest="folder", type=Path, default=ROOT / "build/benchmarks", help="folder of a run"
    )
    publish(parser.parse_args().folder)


if __name__ == "__main__":
    main()
