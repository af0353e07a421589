"""A server is killed inside a group of small uploads, while another serves the same library."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support import Server, postgres, running
from tests.system.faults.uploaders import check_uploads, uploading
from tests.system.faults.victims import InjectFaults

CALLS = ("linkat", "renameat", "unlinkat", "fsync", "sendto", "openat", "write")
KILLS = [
    pytest.param(call, number, marks=() if (call, number) == ("linkat", 9) else pytest.mark.campaign)
    for call in CALLS
    for number in (2, 5, 9, 14, 20, 27)
]


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[tuple[Server, Server]]:
    settings = {
        "storage": "filesystem",
        "files_dir": tmp_path / "files",
        "database_url": postgres.shared().new_library(),
        "stable_after": 0,
    }
    with ExitStack() as stack:
        first, second = (stack.enter_context(running(tmp_path / name, **settings)) for name in ("1", "2"))
        yield first, second


@pytest.mark.parametrize(("call", "number"), KILLS)
def test_kill_in_a_group_loses_no_answered_upload_and_does_not_stop_the_other_server(
    servers: tuple[Server, Server], inject_faults: InjectFaults, tmp_path: Path, call: str, number: int
) -> None:
    first, second = servers
    # PostgreSQL answers at once: the disk has to be slow for a group to gather.
    slow = () if call == "fsync" else ("fsync:delay_enter=2000",)
    with uploading(second, answers=5, numbers=range(10, 12)) as others:
        with (
            inject_faults(first.process.pid, f"{call}:signal=SIGKILL:when={number}", *slow),
            uploading(first, answers=100_000) as uploaders,  # until the server is killed
        ):
            first.process.wait()
        with second.client() as http:
            for name in range(20):
                http.put(f"/files/after/{name}.mp4", content=b"after").raise_for_status()
    assert [response.text for uploader in others for response in uploader.failures] == []
    check_uploads(second, [*uploaders, *others])
    first.start()
    assert list((tmp_path / "files" / ".seekable" / "staging").iterdir()) == []
    with first.client() as http:
        assert http.get("/files/after/19.mp4").content == b"after"
