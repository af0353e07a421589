"""The servers that are measured: the command that starts each, as its users would, and its paths."""

import os
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
TOOLS = ROOT / "build" / "tools"
"""Where tools.sh unpacks servers that the machine lacks."""


@dataclass(frozen=True)
class Place:
    """The folders and addresses of one server.

    `home` is its own, on the file system of `films`. Python imports from `code`.
    """

    code: Path
    films: Path
    home: Path
    port: int
    mongodb: str


@dataclass(frozen=True)
class Contestant:
    """One server. `command` may write files into the home; `needs` is a required program or package.

    With `gridfs` its film is in MongoDB; with `own_library` it shares neither folder nor database with
    others; `before` runs the code of an earlier commit. `ping` is a small answer; `ready`, if given, is
    another one that has status 200 only when the server is ready. `put` and `form` are the paths that accept
    uploads, or None; `stored` is the path at which an upload is then served.
    """

    name: str
    command: Callable[[Place], list[object]]
    environment: Callable[[Place], Mapping[str, object]] = lambda place: {}
    needs: str | None = None
    gridfs: bool = False
    own_library: bool = False
    before: bool = False
    film: str = "/film.mp4"
    ping: str = "/ping.txt"
    ready: str | None = None
    put: str | None = None
    form: str | None = None
    stored: str = "/{}"


def program(name: str) -> Path | None:
    """Return the path of an installed or unpacked server. Returns None if it is missing."""
    places = [os.environ.get("PATH", ""), "/usr/sbin", str(TOOLS / "usr/sbin"), str(TOOLS / "usr/bin")]
    found = shutil.which(name, path=os.pathsep.join(places))
    return Path(found) if found else None


def _nginx(place: Place, access_log: str = "off") -> list[object]:
    home = place.home
    user = "user root;" if os.geteuid() == 0 else ""
    temporary = "".join(
        f"{kind}_temp_path {home}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (home / "nginx.conf").write_text(f"""
        {user} daemon off; worker_processes 1; pid {home}/nginx.pid; error_log {home}/error.log;
        events {{ worker_connections 4096; }}
        http {{
            access_log {access_log}; sendfile on; tcp_nopush off; keepalive_requests 1000000000; {temporary}
            types {{ video/mp4 mp4; text/plain txt; }}
            server {{
                listen 127.0.0.1:{place.port} backlog=4096; root {place.films};
                location /put/ {{ alias {home}/; dav_methods PUT DELETE; client_max_body_size 0; }}
            }}
        }}""")
    return [program("nginx"), "-e", home / "error.log", "-p", home, "-c", home / "nginx.conf"]


def _nginx_log(place: Place) -> list[object]:
    return _nginx(place, f"{place.home}/access.log")


def _caddy(place: Place) -> list[object]:
    (place.home / "Caddyfile").write_text(
        "{\n admin off\n auto_https off\n}\n"
        f"http://:{place.port} {{\n bind 127.0.0.1\n root * {place.films}\n file_server\n}}\n"
    )
    return [program("caddy"), "run", "--adapter", "caddyfile", "--config", place.home / "Caddyfile"]


def _aiohttp(place: Place) -> list[object]:
    return [sys.executable, "-m", "benchmarks.aiohttp_server", place.films, place.port]


def _uvicorn(app: str) -> Callable[[Place], list[object]]:
    return lambda place: [
        sys.executable, "-m", "uvicorn", f"benchmarks.tutorials:{app}", "--port", place.port,
        "--no-access-log", "--log-level", "warning", "--backlog", 4096,
    ]  # fmt: skip


def _films(place: Place) -> dict[str, object]:
    return {"FILMS": place.films}


def _uploads(place: Place) -> dict[str, object]:
    return {"FILMS": place.home}


def _seekable(place: Place) -> list[object]:
    return [sys.executable, "-c", "from app.cli import main; main()", "serve", "--port", place.port]


_QUIET = {"SEEKABLE_ACCESS_LOG": "false"}  # only the contestants named so log requests


def _ours(place: Place) -> dict[str, object]:
    return {**_QUIET, "SEEKABLE_FILES_DIR": place.films}


def _ours_slow_path(place: Place) -> dict[str, object]:
    return {**_ours(place), "SEEKABLE_FAST_PATH": "false"}


def _ours_log(place: Place) -> dict[str, object]:
    return {"SEEKABLE_ACCESS_LOG": "true", "SEEKABLE_FILES_DIR": place.films}


def _ours_gridfs(place: Place) -> dict[str, object]:
    return {**_QUIET, "SEEKABLE_STORAGE": "gridfs", "SEEKABLE_MONGODB_URL": place.mongodb}


_OURS: dict[str, Any] = {
    "film": "/files/film.mp4",
    "ping": "/health/live",
    "ready": "/health/ready",
    "put": "/files/{}",
    "form": "/file/upload",
    "stored": "/files/{}",
}

SLOW_PATH = "Seekable, no fast path"
BEFORE, BEFORE_GRIDFS = "Seekable before", "Seekable before, GridFS"

CONTESTANTS = {
    one.name: one
    for one in [
        Contestant("nginx", _nginx, needs="nginx", put="/put/{}", stored="/put/{}"),
        Contestant("nginx, log", _nginx_log, needs="nginx"),
        Contestant("Caddy", _caddy, lambda place: {"HOME": place.home, "GOMAXPROCS": 1}, needs="caddy"),
        Contestant("aiohttp", _aiohttp, needs="aiohttp"),
        Contestant("Starlette", _uvicorn("starlette"), _films),
        Contestant("tutorial", _uvicorn("tutorial"), _films),
        Contestant("FastAPI form", _uvicorn("tutorial"), _uploads, form="/copied"),
        Contestant("FastAPI read()", _uvicorn("tutorial"), _uploads, form="/read"),
        Contestant(
            "GridFS tutorial",
            _uvicorn("gridfs"),
            lambda place: {"FILMS_MONGODB": place.mongodb},
            gridfs=True,
            film="/tutorial.mp4",
            form="/copied",
            stored="/uploads/{}",
        ),
        Contestant("Seekable", _seekable, _ours, **_OURS),
        Contestant("Seekable GridFS", _seekable, _ours_gridfs, gridfs=True, **_OURS),
        Contestant(SLOW_PATH, _seekable, _ours_slow_path, own_library=True, **_OURS),
        Contestant("Seekable, log", _seekable, _ours_log, own_library=True, **_OURS),
        Contestant(BEFORE, _seekable, _ours, own_library=True, before=True, **_OURS),
        Contestant(
            BEFORE_GRIDFS, _seekable, _ours_gridfs, gridfs=True, own_library=True, before=True, **_OURS
        ),
    ]
}
