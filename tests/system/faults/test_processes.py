"""Many processes write to one library at once. Over the filesystem backend."""

import hashlib
import json
import os
import sqlite3
import sys
from contextlib import ExitStack, closing
from pathlib import Path

from tests.support import run
from tests.system.faults.victim import Library

WRITERS = 8
SECONDS = 2


def test_concurrent_processes_all_write_and_leave_rows_that_match_files(tmp_path: Path) -> None:
    root = tmp_path / "files"
    script = Path(__file__).with_name("writers.py")
    counts = json.loads(run(sys.executable, script, root, WRITERS, SECONDS).stdout)
    assert len(counts) == WRITERS
    assert all(counts), "a process made no change"
    for kind in ("create", "replace", "delete", "move", "replace shared", "delete shared"):
        assert sum(writer.get(kind, 0) for writer in counts) > 0, counts
    with ExitStack() as stack:
        assert Library(root, stack).staging() == []
    with closing(sqlite3.connect(root / ".seekable" / "seekable.db")) as database:
        rows = database.execute("SELECT folder, filename, size, sha256 FROM media").fetchall()
    stored = {
        str(path.relative_to(root)): path.read_bytes() for path in root.glob("[!.]*/**/*") if path.is_file()
    }
    assert {f"{folder}/{name}": (size, sha256) for folder, name, size, sha256 in rows} == {
        path: (len(data), hashlib.sha256(data).hexdigest()) for path, data in stored.items()
    }
    assert set(os.listdir(root)) == {".seekable", *(path.partition("/")[0] for path in stored)}
