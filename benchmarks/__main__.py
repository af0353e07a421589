"""Seekable beside nginx, Caddy, aiohttp, Starlette and what tutorials teach: `make bench`."""

import argparse
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.cases import CASES, Case
from benchmarks.contestants import CONTESTANTS, ROOT, program
from benchmarks.ground import FULL, QUICK, prepared
from benchmarks.report import report
from benchmarks.rounds import Found, play
from benchmarks.servers import missing


def main() -> None:
    options = _options()
    chosen = [case for case in CASES if not options.only or case.name in options.only]
    if options.list:
        print(*(f"{case.name:14} {case.title}: {', '.join(case.contestants)}" for case in CASES), sep="\n")
        return
    effort = QUICK if options.quick else FULL
    rounds = options.rounds or effort.rounds
    taking_part = {case.name: _names(case, quick=options.quick) for case in chosen}
    results: dict[str, Found] = {}
    begun = time.monotonic()
    try:
        with prepared(
            effort, {name for names in taking_part.values() for name in names}, options.scratch
        ) as ground:
            for case in chosen:
                if names := taking_part[case.name]:
                    count = 1 if options.quick and case.fresh else rounds
                    results[case.name] = play(case, names, ground, rounds=count)
    except KeyboardInterrupt:
        print("Stopped; this is what was measured until then.", file=sys.stderr)
    text = report(results, _about(time.monotonic() - begun, rounds))
    options.to.mkdir(parents=True, exist_ok=True)
    (options.to / "results.md").write_text(text)
    print(text)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer, smaller and shorter: within 3 minutes")
    parser.add_argument("--only", action="append", metavar="CASE", choices=[case.name for case in CASES])
    parser.add_argument("--list", action="store_true", help="what can be measured")
    parser.add_argument("--rounds", type=int, help="how often everybody has a turn (7; 3 with --quick)")
    parser.add_argument(
        "--scratch", type=Path, help="where the films are meanwhile: 4 GiB, on a disk to be measured"
    )
    parser.add_argument(
        "--to", type=Path, default=ROOT / "build" / "benchmarks", help="folder of the results"
    )
    return parser.parse_args()


def _names(case: Case, *, quick: bool) -> tuple[str, ...]:
    """Who takes part; who cannot is named."""
    names = []
    for name in case.quick if quick else case.contestants:
        if (lacks := missing(CONTESTANTS[name])) is None:
            names.append(name)
        elif name not in _named:
            _named.add(name)
            print(f"{name} is left out: {lacks}", file=sys.stderr)
    return tuple(names)


_named: set[str] = set()


def _about(seconds: float, rounds: int) -> str:
    """The machine, and who was measured."""
    system = platform.uname()
    python = f"Python {platform.python_version()}"
    return (
        f"{time.strftime('%Y-%m-%d')}, {rounds} rounds, {seconds / 60:.0f} minutes; {os.cpu_count()} processors, "
        f"{system.system} {system.release}, {python}, {', '.join(_versions())}."
    )


def _versions() -> list[str]:
    found = []
    if nginx := program("nginx"):
        said = subprocess.run([nginx, "-v"], capture_output=True, text=True, check=False).stderr
        found.append(said.strip().rpartition(" ")[2].replace("/", " "))
    if caddy := program("caddy"):
        said = subprocess.run([caddy, "version"], capture_output=True, text=True, check=False).stdout
        found.append(f"Caddy {said.split(' ')[0].strip()}")
    return found


if __name__ == "__main__":
    main()
