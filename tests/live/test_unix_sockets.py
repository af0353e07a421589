"""`seekable serve` at a Unix socket, and at sockets that systemd opened."""

import os
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from websockets.sync.client import unix_connect

from tests.live.clients import BIN, program, until
from tests.live.proxies import HOST, proxy
from tests.live.test_cli import run_command
from tests.support import Server, need, noise, run

pytestmark = pytest.mark.live

FILM = noise(3 << 20)
ELSEWHERE = "X-Forwarded-For: 203.0.113.9"


class UnixServer(Server):
    """A server at a Unix socket. Its `port` is none; the samples of deploy/ are edited where it stands."""

    port = 9

    @property
    def socket(self) -> Path:
        return self.folder / "seekable.sock"

    def start(self, *arguments: str, within: float = 30) -> "UnixServer":
        self.folder.mkdir(parents=True, exist_ok=True)
        self.log_file.touch()
        offset = self.logged()
        environment = {key: value for key, value in os.environ.items() if not key.startswith("SEEKABLE_")}
        environment |= {f"SEEKABLE_{key.upper()}": str(value) for key, value in self.settings.items()}
        self._process = self._begin("serve", "--uds", str(self.socket), *arguments, environment=environment)
        until(
            lambda: "running on unix:" in self.log(offset) or self.process.poll() is not None,
            "it listens",
            within,
        )
        assert self.process.poll() is None, self.log(offset)
        return self


Start = Callable[..., UnixServer]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[UnixServer] = []

    def start(**settings: object) -> UnixServer:
        server = UnixServer(tmp_path / "server", **settings)
        started.append(server.start())
        return server

    yield start
    for server in started:
        server.kill()


def curl(path: Path, *arguments: object) -> str:
    """Run curl at a Unix socket; `-w %{http_code}` prints the status."""
    need("curl")
    return run("curl", "-sS", "--unix-socket", path, *arguments).stdout


def test_curl_uploads_and_reads_and_the_socket_is_gone_at_the_end(start: Start, tmp_path: Path) -> None:
    server = start()
    url = "http://localhost/files/film.mp4"
    film, copy = tmp_path / "film.mp4", tmp_path / "copy.mp4"
    film.write_bytes(FILM)
    assert curl(server.socket, "-T", film, "-o", "/dev/null", "-w", "%{http_code}", url) == "201"
    curl(server.socket, "-o", copy, url)
    assert copy.read_bytes() == FILM
    curl(server.socket, "-r", "1000-1999", "-o", copy, url)
    assert copy.read_bytes() == FILM[1000:2000]
    for path in ("/", "/docs", "/files?limit=1"):
        head = curl(server.socket, "-o", "/dev/null", "-w", "%{http_code}", f"http://localhost{path}")
        assert head == "200", path
    with unix_connect(str(server.socket), uri="ws://localhost/") as websocket:
        assert "sid" in str(websocket.recv(timeout=20))
    assert stat.S_IMODE(server.socket.stat().st_mode) == 0o660
    assert f"socket  {server.socket}" in server.log()
    assert server.stop() == 0
    assert not server.socket.exists()


def test_a_peer_counts_as_loopback_and_its_forwarded_address_is_believed(start: Start) -> None:
    server = start()
    status = ("-o", "/dev/null", "-w", "%{http_code}", "http://localhost/files")
    assert curl(server.socket, *status) == "200"
    assert curl(server.socket, "-H", ELSEWHERE, *status) == "403"
    assert curl(server.socket, "-H", "Host: evil.example", *status) == "421"
    # Without a Host, as HTTP/1.0 may be, links begin with a name and not with the path of the socket.
    links = curl(server.socket, "-0", "-H", "Host:", "http://localhost/playlist.xspf")
    assert str(server.socket) not in links
    until(lambda: '203.0.113.9:0 - "GET /files ' in server.log(), "it is logged")


def test_a_websocket_passes_the_same_door(start: Start) -> None:
    server = start()
    with pytest.raises(Exception, match="403"):
        unix_connect(
            str(server.socket), uri="ws://localhost/", additional_headers={"X-Forwarded-For": "203.0.113.9"}
        )


def test_a_stale_socket_is_replaced_and_a_live_one_is_not(start: Start, tmp_path: Path) -> None:
    server = start()
    status, said = run_command(tmp_path, "serve", "--uds", server.socket, SEEKABLE_FILES_DIR="other")
    assert (status, said.count("\n")) == (1, 1)
    assert "Another program listens there" in said
    assert "ok" in curl(server.socket, "http://localhost/health")
    server.kill()
    assert server.socket.is_socket()
    server.start()
    assert "ok" in curl(server.socket, "http://localhost/health")


def test_the_socket_of_another_server_is_not_removed_at_the_end(start: Start) -> None:
    server = start()
    server.socket.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(server.socket))
        assert server.stop() == 0
        assert server.socket.is_socket()


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("film.mp4", "it is no socket"),
        ("missing/s.sock", "The folder does not exist"),
        ("x" * 200, "too long"),
    ],
)
def test_a_path_that_cannot_hold_a_socket_is_refused_in_a_sentence(
    path: str, says: str, tmp_path: Path
) -> None:
    (tmp_path / "film.mp4").write_bytes(b"film")
    status, said = run_command(tmp_path, "serve", "--uds", path)
    assert (status, said.count("\n")) == (1, 1), said
    assert says in said
    assert (tmp_path / "film.mp4").read_bytes() == b"film"
    assert not (tmp_path / "files").exists(), "nothing was made before"


def test_a_socket_and_a_port_are_not_taken_together(tmp_path: Path) -> None:
    status, said = run_command(tmp_path, "serve", "--uds", "s.sock", "--port", "0")
    assert status == 2
    assert "--uds takes the place of" in said


@pytest.mark.parametrize("name", ["nginx", "caddy"])
def test_a_proxy_passes_clients_on_with_their_addresses(name: str, start: Start, tmp_path: Path) -> None:
    server = start(access="open", allowed_hosts=HOST)
    edit = {
        "nginx": ("server 127.0.0.1:9;", f"server unix:{server.socket};"),
        "caddy": ("reverse_proxy 127.0.0.1:9", f"reverse_proxy unix/{server.socket}"),
    }[name]
    with proxy(name, server, tmp_path / name, edit=edit, max_file_size=FILM_FITS_NOT) as front:
        with front.client() as client:
            up = client.put("/files/film.mp4", content=FILM)
            assert up.status_code == 201
            assert up.json()["url"].startswith("https://")
            piece = client.get("/files/film.mp4", headers={"range": "bytes=5-9"})
            assert (piece.status_code, piece.content) == (206, FILM[5:10])
            assert client.get("/files/film.mp4").content == FILM
        with front.websocket("/") as websocket:
            assert "sid" in str(websocket.recv(timeout=20))
        reached = socket.create_connection(("127.0.0.1", front.port), 20, source_address=("127.0.0.2", 0))
        with front.ssl_context().wrap_socket(reached, server_hostname=HOST) as connection:
            connection.sendall(f"GET /files HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode())
            assert connection.recv(12) == b"HTTP/1.1 200"
    until(lambda: '127.0.0.2:0 - "GET /files ' in server.log(), "its address is logged")


FILM_FITS_NOT = 1 << 20
"""Bytes that the proxies may write to any one file."""


def test_systemd_opens_the_socket_and_keeps_it(tmp_path: Path) -> None:
    need("systemd-socket-activate")
    path = tmp_path / "s.sock"
    here = tmp_path / "here"
    here.mkdir()
    with program(here, "systemd-socket-activate", "-l", path, BIN / "seekable", "serve") as server:
        until(path.is_socket, "it listens")
        assert "ok" in curl(path, "http://localhost/health")
        assert f"running on unix:{path}" in server.log()
        assert server.terminate() == 0
    assert path.is_socket(), "it is systemd's, which starts us again when the next client comes"


def test_abstract_socket_of_systemd_is_named_as_curl_takes_it(tmp_path: Path) -> None:
    need("systemd-socket-activate")
    here = tmp_path / "here"
    here.mkdir()
    name = f"seekable-{os.getpid()}"
    with program(here, "systemd-socket-activate", "-l", f"@{name}", BIN / "seekable", "serve") as server:
        server.wait_for("Listening on")
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(f"\0{name}")
            server.wait_for(f"running on unix:@{name}\n")
            said = server.wait_for("upload +(.*) -F")[1]
        assert said == f"curl --abstract-unix-socket {name}"
        address = ("--abstract-unix-socket", name, "http://localhost/health")
        assert "ok" in run("curl", "--silent", *address).stdout


def test_a_port_that_systemd_opened_for_all_is_refused_like_one_of_ours(tmp_path: Path) -> None:
    need("systemd-socket-activate")
    here = tmp_path / "here"
    here.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ("systemd-socket-activate", "-l", f"0.0.0.0:{port}", BIN / "seekable", "serve")
    with program(here, *command) as server:
        server.wait_for("Listening on")
        with socket.create_connection(("127.0.0.1", port), timeout=10):
            server.wait_for("Anybody who can reach 0.0.0.0")
        assert server.process.wait(20) == 1
