"""nginx, Caddy and HAProxy with the configurations of deploy/, on other ports, in front of a server."""

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from websockets.sync.client import ClientConnection, connect

from tests.live.clients import Program, program, until
from tests.mongo import free_port
from tests.support import Server, need, run

DEPLOY = Path(__file__).parents[2] / "deploy"
HOST = "media.example.org"

BYTES_OF_FILES = 64 << 10
"""What the proxies may write to any one file: their logs fit, and a film does not."""


@dataclass(frozen=True)
class Proxy:
    """One that runs."""

    port: int
    plain_port: int
    program: Program
    certificate: Path

    @property
    def url(self) -> str:
        return f"https://{HOST}:{self.port}"

    def trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.certificate))

    def reach(self) -> socket.socket:
        """As a client does that has looked up the name."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def connect(self) -> ssl.SSLSocket:
        return self.trust().wrap_socket(self.reach(), server_hostname=HOST)

    def listen(self, path: str, **options: Any) -> ClientConnection:
        """A WebSocket."""
        url = f"wss://{HOST}:{self.port}{path}"
        return connect(url, sock=self.reach(), ssl=self.trust(), server_hostname=HOST, **options)

    def client(self) -> httpx.Client:
        """Of the name, too."""
        transport = _There(verify=self.trust())
        return httpx.Client(base_url=self.url, transport=transport, trust_env=False, timeout=60)

    def peak(self) -> int:
        """The most memory that it had, in bytes."""
        status = Path(f"/proc/{self.program.process.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024


class _There(httpx.HTTPTransport):
    """Finds every name on this machine."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        request.extensions["sni_hostname"] = request.url.host
        request.url = request.url.copy_with(host="127.0.0.1")
        return super().handle_request(request)


@contextmanager
def proxy(
    name: str, server: Server, folder: Path, *, edit: tuple[str, str] = ("", ""), most: int = BYTES_OF_FILES
) -> Iterator[Proxy]:
    """`edit` is a change of its configuration; `most` is what it may write to any one file."""
    need(name, "openssl", "prlimit")
    folder.mkdir()
    certificate, key = folder / "cert.pem", folder / "key.pem"
    # fmt: off
    run(
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
        "-keyout", key, "-out", certificate, "-days", "2", "-subj", f"/CN={HOST}",
        "-addext", f"subjectAltName=DNS:{HOST}",
    )
    # fmt: on
    ports = free_port(), free_port()
    write = {"nginx": _nginx, "caddy": _caddy, "haproxy": _haproxy}[name]
    command = write(folder, server, ports, edit)
    home = {"HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    with program(folder, "prlimit", f"--fsize={most}", *command, **home) as started:
        found = Proxy(*ports, started, certificate)
        until(lambda: started.process.poll() is not None or _listens(found), f"{name}:\n{started.log()}")
        assert started.process.poll() is None, started.log()
        yield found


def _listens(proxy: Proxy) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", proxy.port)) == 0


def _replaced(text: str, *changes: tuple[str, object]) -> str:
    """Each of them is in it."""
    for old, new in changes:
        assert old in text
        text = text.replace(old, str(new))
    return text


def _nginx(folder: Path, server: Server, ports: tuple[int, int], edit: tuple[str, str]) -> list[object]:
    ours = _replaced(
        (DEPLOY / "nginx.conf").read_text(),
        ("listen [::]:443 ssl;", ""),  # not every machine has IPv6
        ("listen [::]:80;", ""),
        ("listen 443 ssl;", f"listen 127.0.0.1:{ports[0]} ssl;"),
        ("listen 80;", f"listen 127.0.0.1:{ports[1]};"),
        ("127.0.0.1:8000", f"127.0.0.1:{server.port}"),
        ("/etc/ssl/media.example.org.pem", folder / "cert.pem"),
        ("/etc/ssl/media.example.org.key", folder / "key.pem"),
        edit,
    )
    (folder / "seekable.conf").write_text(ours)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    places = "\n".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    (folder / "nginx.conf").write_text(f"""
        daemon off; master_process off; pid {folder}/pid; error_log stderr;
        events {{}}
        http {{ access_log off; {places} include seekable.conf; }}
    """)
    return ["nginx", "-e", "stderr", "-p", folder, "-c", folder / "nginx.conf"]


def _caddy(folder: Path, server: Server, ports: tuple[int, int], edit: tuple[str, str]) -> list[object]:
    ours = _replaced(
        (DEPLOY / "Caddyfile").read_text(),
        (f"\n{HOST} {{", f"\n{HOST}:{ports[0]} {{\n\ttls {folder}/cert.pem {folder}/key.pem"),
        ("127.0.0.1:8000", f"127.0.0.1:{server.port}"),
        edit,
    )
    options = f"{{\n\tadmin off\n\thttp_port {ports[1]}\n\thttps_port {ports[0]}\n}}\n"
    (folder / "Caddyfile").write_text(options + ours)
    return ["caddy", "run", "--adapter", "caddyfile", "--config", folder / "Caddyfile"]


def _haproxy(folder: Path, server: Server, ports: tuple[int, int], edit: tuple[str, str]) -> list[object]:
    ours = _replaced(
        (DEPLOY / "haproxy.cfg").read_text(),
        ("bind :443 ssl", f"bind 127.0.0.1:{ports[0]} ssl"),
        ("bind :80", f"bind 127.0.0.1:{ports[1]}"),
        ("127.0.0.1:8000", f"127.0.0.1:{server.port}"),
        ("/etc/ssl/media.example.org.pem", folder / "both.pem"),
        edit,
    )
    (folder / "both.pem").write_text((folder / "cert.pem").read_text() + (folder / "key.pem").read_text())
    (folder / "haproxy.cfg").write_text(ours)
    return ["haproxy", "-db", "-f", folder / "haproxy.cfg"]
