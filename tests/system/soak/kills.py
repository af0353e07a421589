"""Kill a server at every system call that changes the disk, and check its files after the next start.

Run by `make soak`, as root. Exits with status 1 at the first broken promise. Takes about ten minutes.
"""

import sys
import tempfile
from pathlib import Path

import httpx

sys.path.insert(0, str(Path(__file__).parents[3]))

from tests.support import Server
from tests.system.faults.tracing import inject_faults
from tests.system.faults.victim import NEW, OLD, sha256

CALLS = ("openat", "write", "pwrite64", "fsync", "fdatasync", "mkdirat", "linkat", "renameat", "unlinkat")
KINDS = ("create", "form", "replace", "delete")
STATES = {
    "create": (None, sha256(NEW)),
    "form": (None, sha256(NEW)),
    "replace": (sha256(OLD), sha256(NEW)),
    "delete": (sha256(OLD), None),
}
"""SHA-256 of the file (None: no file) before and after each change."""


def send_change(http: httpx.Client, kind: str, folder: str) -> httpx.Response:
    match kind:
        case "delete":
            return http.delete(f"/files/{folder}/film.mp4")
        case "form":
            return http.post(f"/file/upload?folder={folder}", files={"file": ("film.mp4", NEW)})
    return http.put(f"/files/{folder}/film.mp4", content=NEW)


def kill_at(server: Server, scratch: Path, kind: str, call: str, number: int) -> bool:
    """Kill the server at the call's n-th occurrence in a thread. Returns False if there were fewer calls."""
    folder = f"{kind}-{call}-{number}"
    acknowledged = False
    with server.client() as http:
        if kind in ("replace", "delete"):
            http.put(f"/files/{folder}/film.mp4", content=OLD).raise_for_status()
        with inject_faults(scratch, server.process.pid, f"{call}:signal=SIGKILL:when={number}") as trace:
            try:
                acknowledged = send_change(http, kind, folder).is_success
            except httpx.TransportError:
                server.process.wait()
        killed = "SIGKILL" in trace.read_text()
    assert acknowledged or killed
    server.kill()
    server.start()
    assert server.staging() == []
    check_file(server, kind, folder, acknowledged)
    return killed


def check_file(server: Server, kind: str, folder: str, acknowledged: bool) -> None:
    path = f"/files/{folder}/film.mp4"
    with server.client() as http:
        response = http.get(path)
        found = sha256(response.content) if response.is_success else None
        assert found in STATES[kind][1 if acknowledged else 0 :], folder
        items = http.get("/files", params={"folder": folder}).json()["items"]
        assert [item["size"] for item in items] == ([len(response.content)] if response.is_success else [])
        assert all(item["sha256"] in (None, found) for item in items)
        assert http.put(path, content=OLD).status_code == (201 if found is None else 204)
        assert http.delete(path).status_code == 204


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        server = Server(Path(scratch) / "server", stable_after=0).start()
        try:
            for kind in KINDS:
                for call in CALLS:
                    number = 1
                    while kill_at(server, Path(scratch), kind, call, number):
                        number += 1
                    print(f"{kind}: killed at each {call}, {number - 1} times", flush=True)
        finally:
            server.stop()


if __name__ == "__main__":
    main()
