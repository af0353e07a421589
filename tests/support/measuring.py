"""Branch coverage of app/, for `make coverage`: a pytest plugin that prints a report and holds its floor.

Tracing costs two thirds more processor time (until Python 3.14), so `make test` does without, and of
tests/http/ only the servers are traced, not the clients.
"""

import atexit
import os
import shutil
from collections.abc import Iterator
from io import StringIO

import pytest
from coverage import Coverage
from coverage.exceptions import NoDataError

MEASURED = ("tests/unit/", "tests/contracts/", "tests/http/")
NOT_MEASURED = ("tests/http/test_slow_sockets.py",)
"""Tests of a server's memory, to which tracing adds."""
IN_PROCESS = ("tests/unit/", "tests/contracts/")
WORKER = "PYTEST_XDIST_WORKER"
VARIABLE = "TESTS_MEASURE_COVERAGE"
"""Set while coverage is measured, for the workers of pytest and the processes that they start."""

_coverage: Coverage | None = None
_report = StringIO()


def is_measured(test: str) -> bool:
    """Return whether the servers that a test starts are traced. `test` is its id."""
    return test.startswith(MEASURED) and not test.startswith(NOT_MEASURED)


def start_in_worker() -> None:
    """Start to trace this process if coverage is measured."""
    global _coverage  # noqa: PLW0603
    if VARIABLE in os.environ and WORKER in os.environ:
        _coverage = Coverage()
        _coverage.start()


def continue_in_fork(measured: bool) -> None:
    """Save at exit what a forked child covers, or stop tracing it."""
    if _coverage is not None:
        if measured:
            atexit.register(_save)
        else:
            _coverage.stop()


def _save() -> None:
    if _coverage is not None:
        _coverage.stop()
        _coverage.save()


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests() -> None:
    """Start before the first module of app/ is imported."""
    if WORKER not in os.environ:
        os.environ[VARIABLE] = "1"
        shutil.rmtree("build/coverage", ignore_errors=True)
    start_in_worker()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    if _coverage is None or item.nodeid.startswith(IN_PROCESS):
        return (yield)
    _coverage.stop()
    try:
        return (yield)
    finally:
        _coverage.start()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Save in a worker. In the controller, combine what all processes saved; fail below the floor.

    A run of tests that `-k` selects has no floor.
    """
    if WORKER in os.environ:
        _save()
        return
    coverage = Coverage()
    try:
        coverage.combine()
    except NoDataError:  # without workers: -n 0
        return
    total = coverage.report(file=_report, skip_covered=True)
    floor = coverage.get_option("report:fail_under")
    assert isinstance(floor, float | int)
    if not session.config.option.keyword and total < floor:
        _report.write(
            f"Branch coverage is below {floor:g}%. Test the new code, below tests/unit if possible.\n"
        )
        session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.section("coverage of app/ by unit, contract and HTTP tests")
    terminalreporter.write(_report.getvalue())
