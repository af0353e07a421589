"""`seekable serve` on Unix sockets, and on sockets that systemd has opened."""

import os
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from websockets.sync.client import unix_connect

from tests.support import Server, need, noise, run
from tests.system.live.clients import BIN, program, until
from tests.system.live.proxies import HOST, proxy
from tests.system.live.test_cli import run_command

pytestmark = pytest.mark.live

FILM = noise(3 << 20)
FROM_OTHER_MACHINE = "X-Forwarded-For: 203.0.113.9"


class UnixServer(Server):
    """A server on a Unix socket. `port` only marks the place to edit in the configurations of deploy/."""

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
            "the server is listening",
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
    """Run curl over a Unix socket, and return its output; `-w %{http_code}` prints the status."""
    need("curl")
    return run("curl", "-sS", "--unix-socket", path, *arguments).stdout


def test_curl_uploads_and_downloads_and_shutdown_removes_socket(start: Start, tmp_path: Path) -> None:
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
    assert f"socket   {server.socket}" in server.log()
    assert server.stop() == 0
    assert not server.socket.exists()


def test_socket_peer_is_loopback_and_its_forwarded_address_is_trusted(start: Start) -> None:
    server = start()
    status = ("-o", "/dev/null", "-w", "%{http_code}", "http://localhost/files")
    assert curl(server.socket, *status) == "200"
    assert curl(server.socket, "-H", FROM_OTHER_MACHINE, *status) == "403"
    assert curl(server.socket, "-H", "Host: evil.example", *status) == "421"
    # Without a Host header, which HTTP/1.0 allows, links start with a name, not with the socket's path.
    links = curl(server.socket, "-0", "-H", "Host:", "http://localhost/playlist.xspf")
    assert str(server.socket) not in links
    until(lambda: '203.0.113.9:0 - "GET /files ' in server.log(), "the request is logged")


def test_websocket_is_refused_for_other_machine(start: Start) -> None:
    server = start()
    with pytest.raises(Exception, match="403"):
        unix_connect(
            str(server.socket), uri="ws://localhost/", additional_headers={"X-Forwarded-For": "203.0.113.9"}
        )


def test_serve_replaces_stale_socket_and_refuses_live_one(start: Start, tmp_path: Path) -> None:
    server = start()
    status, output = run_command(tmp_path, "serve", "--uds", server.socket, SEEKABLE_FILES_DIR="other")
    assert (status, output.count("\n")) == (1, 1)
    assert "Another program listens there" in output
    assert "ok" in curl(server.socket, "http://localhost/health")
    server.kill()
    assert server.socket.is_socket()
    server.start()
    assert "ok" in curl(server.socket, "http://localhost/health")


def test_shutdown_keeps_socket_of_other_server(start: Start) -> None:
    server = start()
    server.socket.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(server.socket))
        assert server.stop() == 0
        assert server.socket.is_socket()


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("film.mp4", "it is not a socket"),
        ("missing/s.sock", "The folder does not exist"),
        ("x" * 200, "too long"),
    ],
)
def test_serve_is_refused_when_path_cannot_be_a_socket(path: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "film.mp4").write_bytes(b"film")
    status, output = run_command(tmp_path, "serve", "--uds", path)
    assert (status, output.count("\n")) == (1, 1), output
    assert message in output
    assert (tmp_path / "film.mp4").read_bytes() == b"film"
    assert not (tmp_path / "files").exists(), "the library is not created before the refusal"


def test_serve_refuses_socket_together_with_port(tmp_path: Path) -> None:
    status, output = run_command(tmp_path, "serve", "--uds", "s.sock", "--port", "0")
    assert status == 2
    assert "--uds cannot be combined with" in output


@pytest.mark.parametrize("name", ["nginx", "caddy"])
def test_proxy_passes_client_address_over_unix_socket(name: str, start: Start, tmp_path: Path) -> None:
    server = start(access="open", allowed_hosts=HOST)
    edit = {
        "nginx": ("server 127.0.0.1:9;", f"server unix:{server.socket};"),
        "caddy": ("reverse_proxy 127.0.0.1:9", f"reverse_proxy unix/{server.socket}"),
    }[name]
    with proxy(name, server, tmp_path / name, edit=edit, max_file_size=LESS_THAN_FILM) as front:
        with front.client() as client:
            uploaded = client.put("/files/film.mp4", content=FILM)
            assert uploaded.status_code == 201
            assert uploaded.json()["url"].startswith("https://")
            piece = client.get("/files/film.mp4", headers={"range": "bytes=5-9"})
            assert (piece.status_code, piece.content) == (206, FILM[5:10])
            assert client.get("/files/film.mp4").content == FILM
        with front.websocket("/") as websocket:
            assert "sid" in str(websocket.recv(timeout=20))
        tcp = socket.create_connection(("127.0.0.1", front.port), 20, source_address=("127.0.0.2", 0))
        with front.ssl_context().wrap_socket(tcp, server_hostname=HOST) as connection:
            connection.sendall(f"GET /files HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode())
            assert connection.recv(12) == b"HTTP/1.1 200"
    until(lambda: '127.0.0.2:0 - "GET /files ' in server.log(), "the client's address is logged")


LESS_THAN_FILM = 1 << 20
"""Largest file, in bytes, that the proxies may write."""


def test_shutdown_keeps_socket_of_systemd(tmp_path: Path) -> None:
    need("systemd-socket-activate")
    path = tmp_path / "s.sock"
    workdir = tmp_path / "workdir"
    workdir.mkdir()
    with program(workdir, "systemd-socket-activate", "-l", path, BIN / "seekable", "serve") as server:
        until(path.is_socket, "the server is listening")
        assert "ok" in curl(path, "http://localhost/health")
        assert f"running on unix:{path}" in server.log()
        assert server.terminate() == 0
    assert path.is_socket(), "systemd owns it, and starts the server again for the next client"


def test_abstract_socket_of_systemd_is_printed_in_curl_syntax(tmp_path: Path) -> None:
    need("systemd-socket-activate")
    workdir = tmp_path / "workdir"
    workdir.mkdir()
    name = f"seekable-{os.getpid()}"
    with program(workdir, "systemd-socket-activate", "-l", f"@{name}", BIN / "seekable", "serve") as server:
        server.wait_for("Listening on")
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(f"\0{name}")
            server.wait_for(f"running on unix:@{name}\n")
            command = server.wait_for("upload +(.*) -F")[1]
        assert command == f"curl --abstract-unix-socket {name}"
        address = ("--abstract-unix-socket", name, "http://localhost/health")
        assert "ok" in run("curl", "--silent", *address).stdout


def test_public_port_of_systemd_is_refused_without_access_setting(tmp_path: Path) -> None:
    need("systemd-socket-activate")
    workdir = tmp_path / "workdir"
    workdir.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ("systemd-socket-activate", "-l", f"0.0.0.0:{port}", BIN / "seekable", "serve")
    with program(workdir, *command) as server:
        server.wait_for("Listening on")
        with socket.create_connection(("127.0.0.1", port), timeout=10):
            server.wait_for("Everyone who can reach 0.0.0.0")
        assert server.process.wait(20) == 2
