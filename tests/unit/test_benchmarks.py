"""The benchmark's arithmetic, reports and error checks; the measurements themselves are not tested."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from markdown_it import MarkdownIt

from benchmarks.before import CommitMissing, code_of
from benchmarks.cases import CASES, GOALS, Goal
from benchmarks.contestants import CONTESTANTS, ROOT
from benchmarks.downloads import download
from benchmarks.exchanges import get, put_small
from benchmarks.measure import memory, tree
from benchmarks.plot import plot
from benchmarks.publish import DOCUMENTS, blocks, contents, published
from benchmarks.ratios import Spread, ratios, round_order, spread
from benchmarks.report import number, report
from benchmarks.rounds import CaseResult
from benchmarks.wire import Target, Unexpected


@pytest.mark.parametrize("module", ["benchmarks", "benchmarks.chunks"])
def test_wrong_usage_has_exit_status_2(module: str) -> None:
    done = subprocess.run([sys.executable, "-m", module, "--yaml"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"usage: python -m {module} ")


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--compare", "--before", "0" * 40], "the commit 0000000"),
        (["--publish", "--only", "one"], "--publish needs all cases"),
    ],
)
def test_options_that_cannot_be_met_are_refused(options: list[str], complaint: str) -> None:
    done = subprocess.run([sys.executable, "-m", "benchmarks", *options], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert complaint in done.stderr


def test_turn_puts_each_contestant_first_and_last() -> None:
    turns = [round_order("abc", number) for number in range(6)]
    assert ["".join(names) for names in turns] == ["abc", "cba", "bca", "acb", "cab", "bac"]
    assert round_order([], 1) == []


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([3], Spread(3, 3, 3)),
        ([1, 3], Spread(2, 1.5, 2.5)),
        ([9, 1, 2, 3, 4], Spread(3, 2, 4)),
        ([1, 1, 1, 1, 1, 1, 100], Spread(1, 1, 1)),
    ],
)
def test_spread_is_median_and_quartiles(values: list[float], expected: Spread) -> None:
    assert spread(values) == expected


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        ([2, 6], [1, 2], [2, 3]),
        ([2, None, 6], [1, 2, 2], [2, 3]),
        ([2, 4, 6], [1, None, 2], [2, 3]),
        ([2, 6], [1], [2]),  # theirs failed in the second round
        ([2, 6], [0, 2], [3]),
        ([], [1], []),
    ],
)
def test_ratios_compare_within_one_round(
    ours: list[float | None], theirs: list[float | None], expected: list[float]
) -> None:
    assert ratios(ours, theirs) == expected


def test_goal_is_met_at_its_limit() -> None:
    least, most = Goal("one", "GB/s", at_least=0.95), Goal("ping", "worst ms", at_most=20)
    assert [least.is_met(0.95), least.is_met(0.94), most.is_met(20), most.is_met(20.1)] == [
        True,
        False,
        True,
        False,
    ]


def test_goals_and_cases_name_existing_contestants() -> None:
    cases = {case.name: case for case in CASES}
    assert len(cases) == len(CASES)
    for case in CASES:
        assert {*case.contestants, *case.quick} <= CONTESTANTS.keys()
    for goal in GOALS:
        assert {goal.who, goal.over or goal.who} <= set(cases[goal.case].contestants), goal


def found() -> CaseResult:
    return CaseResult(
        {
            "nginx": [{"GB/s": 1.0, "CPU-s/GB": 0.5}, {"GB/s": 2.0, "CPU-s/GB": 0.5}],
            "Starlette": [None],
            "Seekable": [{"GB/s": 0.96, "CPU-s/GB": 0.7}, {"GB/s": 1.98, "CPU-s/GB": 0.7}],
        },
        {"Starlette": "Failed: it left"},
    )


def test_report_lists_met_goals_and_failed_contestants() -> None:
    lines = report({"one": found()}, "About.").splitlines()
    rows = {" ".join(line.split()) for line in lines}
    title = "One client, whole films"
    assert f"| Seekable over nginx: {title}, GB/s | ≥ 0.95 | 0.97 | 0.97 to 0.98 | met |" in rows
    assert f"| Seekable over nginx: {title}, CPU-s/GB | ≤ 1.1 | 1.40 | 1.40 to 1.40 | not met |" in rows
    assert f"| Seekable over Starlette: {title}, GB/s | ≥ 5 | not measured | | not met |" in rows
    assert "| Seekable | CPU-s/GB | 0.70 | 0.70 to 0.70 | 1.40 | 1.40 to 1.40 |" in rows
    assert "- Starlette failed: Failed: it left" in rows


def test_plot_has_one_bar_per_ratio() -> None:
    picture = ET.fromstring(plot({"one": found()}))
    bars = [node for node in picture if node.get("class") == "bar ours"]
    assert len(bars) == 2  # GB/s and CPU-s/GB
    faster, costlier = (float(str(bar.get("x"))) for bar in bars)
    assert faster < costlier  # left of 1, and right of 1


LIBRARY = {"sqlite": {"page: everything": 1.5, "page: middle of everything": 3.25, "server ready": "1.20 s"}}


def form(block: str) -> str:
    """Return a block with every figure, verdict and empty cell as a #."""
    measured = (
        r"not measured|not met|\bmet\b|–|(?:up to )?\d[\d.,]*(?: to \d[\d.,]*)?(?: (?:ms|s|minutes?)\b)?"
    )
    lines = [" ".join(re.sub("-+", "-", line).split()) for line in block.splitlines()]
    return "\n".join(re.sub(r"\|\s*(?=\|)", "| # ", re.sub(measured, "#", line)) for line in lines)


def test_documents_have_all_blocks_in_the_form_that_make_bench_writes() -> None:
    """If this fails, run `.venv/bin/python -m benchmarks.publish` after a run of `make bench`."""
    made = blocks({}, LIBRARY, "2026-12-01, 1 minute.")
    found = [one for name in DOCUMENTS for one in contents((ROOT / name).read_text()).items()]
    assert sorted(name for name, _ in found) == sorted(made)
    for name, block in found:
        if name == "about":  # versions and reasons differ between machines
            assert re.match(r"\d{4}-\d\d-\d\d, [\d.]+ minutes, ", block)
        else:
            assert form(block) == form(made[name]), name


def test_blocks_have_the_figures_of_the_results() -> None:
    made = blocks({"one": found()}, LIBRARY, "")
    rows = {" ".join(line.split()) for block in made.values() for line in block.splitlines()}
    assert "| nginx | one client, whole films | 0.97 | 0.97 to 0.98 |" in rows
    assert "| | its CPU time per GB | 1.40 | 1.40 to 1.40 |" in rows
    assert "| | 16 clients | – | – |" in rows
    assert "| nginx | 0.97 | – | – | – |" in rows
    assert "| a page of a list, in any order and at any depth | up to 3.25 ms |" in rows
    assert "| the start of the server | 1.20 s |" in rows


def test_publishing_replaces_blocks_and_keeps_those_that_were_not_measured() -> None:
    document = "".join(
        f"Before {name}.\n\n[figures]: # (begin {name})\n\nOld.\n\n[figures]: # (end {name})\n\n"
        for name in ("goals", "library")
    )
    changed = published(document + "After.\n", {"goals": "New.", "memory": "Not in this document."})
    assert contents(changed) == {"goals": "New.", "library": "Old."}
    assert published(changed, {"goals": "Old."}) == document + "After.\n"
    assert "figures" not in MarkdownIt("commonmark").render(changed)


@pytest.mark.parametrize(
    ("value", "text"), [(0.223, "0.22"), (9.996, "10.00"), (12.34, "12.3"), (21546.4, "21,546"), (0, "0.00")]
)
def test_number_has_significant_digits(value: float, text: str) -> None:
    assert number(value) == text


def test_code_of_checkout_is_the_checkout_itself() -> None:
    assert code_of(str(ROOT)) == ROOT


def test_code_of_unknown_commit_is_missing() -> None:
    with pytest.raises(CommitMissing):
        code_of("0" * 40)


def test_memory_includes_child_processes() -> None:
    with subprocess.Popen(["sh", "-c", "echo; sleep 60 & wait"], stdout=subprocess.PIPE) as shell:
        try:
            assert shell.stdout is not None
            shell.stdout.readline()
            deadline = time.monotonic() + 30
            while len(processes := tree(shell.pid)) < 2 and time.monotonic() < deadline:
                time.sleep(0.01)
            assert processes[0] == shell.pid
            assert len(processes) == 2
            assert memory(shell.pid) > memory(processes[1]) > 0
        finally:
            for pid in processes[::-1]:
                os.kill(pid, signal.SIGKILL)


@contextmanager
def serving_answer(answer: bytes) -> Iterator[Target]:
    """Run a server that sends one answer to one request for a file of five bytes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield Target(listener.getsockname()[1], "/film.mp4", 5)
        finally:
            thread.join()


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nabcdef", "Content-Length is 6, not 5"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc",
            "closed the connection 2 bytes early",
        ),
        (b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 5\r\n\r\nsorry", "500 Internal"),
        (b"HTTP/1.1 206 Partial Content\r\nContent-Length: 5\r\n\r\nabcde", "206 Partial"),
        (b"HTTP/1.1 200 OK\r\n\r\nabcde", "HTTP/1.1 200 OK"),  # no length: the body ends with the connection
        (b"HTTP/1.1 200 OK\r\nContent-Le", "no response head but b'HTTP/1.1 200 OK"),
        (b"", "sent no response head"),
    ],
)
def test_download_raises_unexpected_when_answer_is_wrong(answer: bytes, complaint: str) -> None:
    with serving_answer(answer) as film, pytest.raises(Unexpected, match=complaint):
        download(film, connections=1, length=None, seconds=10)


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy", "503 Service"),
        (b"HTTP/1.1 201 Created\r\nContent-Length: 5\r\n\r\nabc", "closed the connection"),
        (b"HTTP/1.1 201 Created\r\nContent-Le", "no response head but b'HTTP/1.1 201 Created"),
        (b"", "sent no response head"),
    ],
)
def test_small_upload_raises_unexpected_when_answer_is_wrong(answer: bytes, complaint: str) -> None:
    with serving_answer(answer) as film, pytest.raises(Unexpected, match=complaint):
        put_small(film, connections=1, seconds=10, size=10)


def test_list_raises_unexpected_when_no_answer_ends_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        target = Target(listener.getsockname()[1], "/files", 0)
        with pytest.raises(Unexpected, match="answered no request"):
            get(target, connections=1, seconds=0.01)
