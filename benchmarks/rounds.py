"""Rounds, in each of which every contestant has one turn."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks.cases import Case
from benchmarks.measure import read_into_page_cache, wait_until_idle
from benchmarks.ratios import round_order
from benchmarks.runs import Figures
from benchmarks.servers import Server
from benchmarks.testbed import Testbed


@dataclass
class CaseResult:
    """Figures by contestant, one mapping per round (None where it failed), and the reasons of failures."""

    rounds: dict[str, list[Figures | None]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def values(self, name: str, figure: str) -> list[float | None]:
        return [figures.get(figure) if figures else None for figures in self.rounds.get(name, [])]

    def figures(self) -> list[str]:
        """Return the names of all figures, in order of first appearance."""
        rounds = [figures for rounds in self.rounds.values() for figures in rounds if figures]
        return list(dict.fromkeys(name for figures in rounds for name in figures))


def run_case(case: Case, names: tuple[str, ...], testbed: Testbed, found: CaseResult, *, rounds: int) -> None:
    """Run a case into `found`. A contestant that fails skips the rest of the case; the others go on."""
    found.rounds = {name: [] for name in names}
    begun = time.monotonic()
    for name in names:
        _try(name, found, _checked, case, testbed)
    testbed.deadline += time.monotonic() - begun
    for number in range(rounds):
        _show_progress(f"{case.name}: round {number + 1} of {rounds}")
        for film in {testbed.servers[name].film for name in names}:
            read_into_page_cache(film)
        for name in round_order(names, number):
            if time.monotonic() > testbed.deadline:
                found.failed.setdefault(name, "the time limit was reached")
            elif name not in found.failed:
                found.rounds[name].append(_try(name, found, _run, case, testbed))
    _show_progress("")


Attempt = Callable[[Case, Testbed, Server], Figures | None]


def _try(name: str, found: CaseResult, attempt: Attempt, case: Case, testbed: Testbed) -> Figures | None:
    try:
        return attempt(case, testbed, testbed.servers[name])
    except Exception as error:  # a broken contestant must not end the benchmark
        found.failed[name] = f"{type(error).__name__}: {error}"
        _show_progress(f"{name} failed: {found.failed[name]}\n")
        return None


def _checked(case: Case, testbed: Testbed, server: Server) -> None:
    if case.check is not None:
        server.start_if_needed()
        case.check(server)


def _run(case: Case, testbed: Testbed, server: Server) -> Figures:
    if case.fresh:
        server.stop()
    server.start_if_needed()
    wait_until_idle(server.pid)
    return case.run(server, testbed)


def _show_progress(text: str) -> None:
    if sys.stderr.isatty():
        print("\r\x1b[K" + text, end="", file=sys.stderr, flush=True)
    elif text:
        print(time.strftime("%H:%M:%S"), text.rstrip("\n"), file=sys.stderr, flush=True)
