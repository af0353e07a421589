"""Profile the server's event loop during ranges of 64 KiB, over a folder and over GridFS, with cProfile.

    .venv/bin/python -m benchmarks.profiling

cProfile makes each call of a Python function slower, so that Python looks more expensive than C.
"""

import io
import pstats
import sys
from dataclasses import replace

from benchmarks.cases import OURS
from benchmarks.contestants import Place
from benchmarks.namespace import enter_if_allowed
from benchmarks.runs import downloads
from benchmarks.testbed import QUICK, prepared

SERVER = "import cProfile, app.main; from app.cli import main; cProfile.run('main()', 'profile')"


def main() -> None:
    enter_if_allowed()
    with prepared(replace(QUICK, seconds=5), set(OURS)) as testbed:
        for name in OURS:
            server = testbed.servers[name]
            server.stop()
            server.contestant = replace(server.contestant, command=_profiled)
            server.start_if_needed()
            found = downloads(8, 64 << 10)(server, testbed)
            server.stop()
            text = io.StringIO()
            stats = pstats.Stats(str(server.place.home / "profile"), stream=text)
            stats.strip_dirs().sort_stats("tottime").print_stats(30)
            print(f"{name}: {found['ranges/s']:.0f} ranges/s under the profiler")
            print(text.getvalue().partition("\n\n")[2].strip(), end="\n\n")


def _profiled(place: Place) -> list[object]:
    return [sys.executable, "-c", SERVER, "serve", "--port", place.port]


if __name__ == "__main__":
    main()
