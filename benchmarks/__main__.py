"""Measure Seekable beside nginx, Caddy, aiohttp, Starlette and the usual tutorials: `make bench`."""

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from benchmarks.before import BEGINNING, CommitMissing, code_of
from benchmarks.cases import CASES, GRIDFS_PROGRESS, PROGRESS, Case
from benchmarks.contestants import BEFORE, CONTESTANTS, ROOT, Contestant, program
from benchmarks.namespace import enter_if_allowed
from benchmarks.others import FULL_RUN, OTHERS, run_other
from benchmarks.plot import plot
from benchmarks.publish import LIBRARY, RESULTS, publish
from benchmarks.report import Results, report
from benchmarks.rounds import CaseResult, run_case
from benchmarks.servers import why_unavailable
from benchmarks.testbed import COMPARISON, FULL, QUICK, prepared


def main() -> None:
    options = _options()
    if options.list:
        print(*(f"{case.name:13} {case.title}: {', '.join(case.contestants)}" for case in CASES), sep="\n")
        print(*(f"{name:13} {title}" for name, (title, *_) in OTHERS.items()), sep="\n")
        return
    results: dict[str, CaseResult] = {}
    full = () if options.quick or options.compare else FULL_RUN
    others = [name for name in OTHERS if name in (options.only or full)]
    tables: list[str] = []
    options.to.mkdir(parents=True, exist_ok=True)
    (options.to / LIBRARY).unlink(missing_ok=True)  # else figures of an earlier run would be published
    begun = time.monotonic()
    load = os.getloadavg()[0]
    network = enter_if_allowed()
    try:
        _measure(options, results)
        tables += [run_other(name, options.to.absolute()) for name in others]
    except KeyboardInterrupt:
        print("Stopped. These are the results so far:", file=sys.stderr)
        options.publish = False
    about = _about(time.monotonic() - begun, network, options.before, load)
    _show(results, tables, about, options.to)
    if options.publish:
        publish(options.to)


def _measure(options: argparse.Namespace, results: dict[str, CaseResult]) -> None:
    effort = COMPARISON if options.compare else QUICK if options.quick else FULL
    if options.rounds:  # a requested number of rounds has no time limit
        effort = replace(effort, within=math.inf)
    chosen = {
        case: names
        for case in CASES
        if (not options.only or case.name in options.only) and (names := _names(case, options))
    }
    if not chosen:
        return
    everyone = {name for names in chosen.values() for name in names}
    with prepared(effort, everyone, _before(options.before) or ROOT) as testbed:
        for case, names in chosen.items():
            if time.monotonic() > testbed.deadline:
                print(f"{case.name} is left out: the time limit was reached", file=sys.stderr)
                continue
            results[case.name] = CaseResult()
            run_case(case, names, testbed, results[case.name], rounds=_rounds(case, options))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="fewer and shorter runs on smaller films: about 4 minutes"
    )
    parser.add_argument(
        "--only", action="append", metavar="CASE", choices=[*(case.name for case in CASES), *OTHERS]
    )
    parser.add_argument(
        "--compare", action="store_true", help="only Seekable before and now; finds small differences"
    )
    parser.add_argument(
        "--before",
        default=BEGINNING,
        metavar="COMMIT",
        help="commit or checkout to compare with (%(default)s)",
    )
    parser.add_argument(
        "--publish", action="store_true", help="write the figures into README.md and docs/benchmarks.md"
    )
    parser.add_argument("--list", action="store_true", help="list the cases with their contestants, and exit")
    parser.add_argument("--rounds", type=int, help="turns of each contestant (7; 3 with --quick)")
    parser.add_argument("--to", type=Path, default=ROOT / "build/benchmarks", help="folder for the results")
    given = parser.parse_args()
    if given.publish and (given.only or given.compare):
        parser.error("--publish needs all cases: leave out --only and --compare")
    if given.compare and _before(given.before) is None:
        parser.error(f"--compare: {_why_left_out(CONTESTANTS[BEFORE], given.before)}")
    return given


def _rounds(case: Case, options: argparse.Namespace) -> int:
    if options.rounds:
        return int(options.rounds)
    if options.compare:
        return min(case.rounds, COMPARISON.rounds)
    if options.quick:
        return 1 if case.fresh else QUICK.rounds
    return min(case.rounds, FULL.rounds)


def _names(case: Case, options: argparse.Namespace) -> tuple[str, ...]:
    """Return the contestants that can run. A case that --only names has some in quick mode too."""
    if options.compare:
        return next((pair for pair in (PROGRESS, GRIDFS_PROGRESS) if {*pair} <= {*case.contestants}), ())
    names = case.quick if options.quick and (case.quick or not options.only) else case.contestants
    return tuple(name for name in names if _why_left_out(CONTESTANTS[name], options.before) is None)


def _why_left_out(contestant: Contestant, before: str) -> str | None:
    """Return why a contestant cannot run, or None."""
    if contestant.before:
        try:
            code_of(before)
        except CommitMissing as error:
            return f"the commit {before} is not available ({error})"
    return why_unavailable(contestant)


def _before(commit: str) -> Path | None:
    try:
        return code_of(commit)
    except CommitMissing:
        return None


def _show(results: Results, tables: list[str], about: str, folder: Path) -> None:
    text = "\n\n".join([report(results, about), *tables]) + "\n"
    (folder / "results.md").write_text(text)
    cases = {name: vars(found) for name, found in results.items()}
    (folder / RESULTS).write_text(json.dumps({"about": about, "cases": cases}))
    (folder / "results.svg").write_text(plot(results))
    print(text)
    print(f"Tables, raw figures and a chart are in {folder}")


def _about(seconds: float, network: str, before: str, load: float) -> str:
    """Describe the machine and the versions, and name the contestants that were left out."""
    system = platform.uname()
    parts = [
        f"{time.strftime('%Y-%m-%d')}, {seconds / 60:.1f} minutes, {os.cpu_count()} processors",
        f"load {load:.1f} at the beginning",
        f"{system.system} {system.release.partition('-')[0]}",
        f"Python {platform.python_version()}",
        *_versions(),
    ]
    left_out = [
        f"{one.name} is left out: {reason}."
        for one in CONTESTANTS.values()
        if (reason := _why_left_out(one, before))
    ]
    return "\n\n".join([", ".join(parts) + ".", network, f"“Before” is commit {before}.", *left_out])


def _versions() -> list[str]:
    found = []
    if nginx := program("nginx"):
        output = subprocess.run([nginx, "-v"], capture_output=True, text=True, check=False).stderr
        found.append(output.strip().rpartition(" ")[2].replace("/", " "))
    if caddy := program("caddy"):
        output = subprocess.run([caddy, "version"], capture_output=True, text=True, check=False).stdout
        found.append(f"Caddy {output.split(' ')[0].strip()}")
    return found


if __name__ == "__main__":
    main()
