"""nginx, Caddy and HAProxy in front of a server, with the configurations of deploy/ on other ports."""

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from websockets.sync.client import ClientConnection, connect

from tests.support import Server, need, run
from tests.support.mongo import free_port
from tests.system.live.clients import Program, program, until

DEPLOY = Path(__file__).parents[3] / "deploy"
HOST = "media.example.org"

MAX_FILE_SIZE = 64 << 10
"""Largest file, in bytes, that a proxy may write: enough for its log, too little for a film."""


@dataclass(frozen=True)
class Proxy:
    """A running proxy."""

    port: int
    plain_port: int
    program: Program
    certificate: Path

    @property
    def url(self) -> str:
        return f"https://{HOST}:{self.port}"

    def ssl_context(self) -> ssl.SSLContext:
        """Return a context that trusts the proxy's certificate."""
        return ssl.create_default_context(cafile=str(self.certificate))

    def connect_tcp(self) -> socket.socket:
        """Open a TCP connection, as a client does after its DNS lookup."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def connect_tls(self) -> ssl.SSLSocket:
        return self.ssl_context().wrap_socket(self.connect_tcp(), server_hostname=HOST)

    def websocket(self, path: str, **options: Any) -> ClientConnection:
        url = f"wss://{HOST}:{self.port}{path}"
        return connect(url, sock=self.connect_tcp(), ssl=self.ssl_context(), server_hostname=HOST, **options)

    def client(self) -> httpx.Client:
        transport = _LoopbackTransport(verify=self.ssl_context())
        return httpx.Client(base_url=self.url, transport=transport, trust_env=False, timeout=60)

    def peak_memory(self) -> int:
        """Return the peak resident memory, in bytes."""
        status = Path(f"/proc/{self.program.process.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024


class _LoopbackTransport(httpx.HTTPTransport):
    """A transport that resolves every host name to 127.0.0.1."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        request.extensions["sni_hostname"] = request.url.host
        request.url = request.url.copy_with(host="127.0.0.1")
        return super().handle_request(request)


@contextmanager
def proxy(
    name: str,
    server: Server,
    folder: Path,
    *,
    edit: tuple[str, str] = ("", ""),
    max_file_size: int = MAX_FILE_SIZE,
) -> Iterator[Proxy]:
    """Run a proxy in front of the server. `edit` is an (old, new) replacement in its configuration."""
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
    with program(folder, "prlimit", f"--fsize={max_file_size}", *command, **home) as started:
        found = Proxy(*ports, started, certificate)
        until(lambda: started.process.poll() is not None or _is_listening(found), f"{name}:\n{started.log()}")
        assert started.process.poll() is None, started.log()
        yield found


def _is_listening(proxy: Proxy) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", proxy.port)) == 0


def _replace(text: str, *changes: tuple[str, object]) -> str:
    """Replace each old text by the new one. Fails if it is missing."""
    for old, new in changes:
        assert old in text
        text = text.replace(old, str(new))
    return text


def _nginx(folder: Path, server: Server, ports: tuple[int, int], edit: tuple[str, str]) -> list[object]:
    configuration = _replace(
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
    (folder / "seekable.conf").write_text(configuration)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temp_paths = "\n".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    (folder / "nginx.conf").write_text(f"""
        daemon off; master_process off; pid {folder}/pid; error_log stderr;
        events {{}}
        http {{ access_log off; {temp_paths} include seekable.conf; }}
    """)
    return ["nginx", "-e", "stderr", "-p", folder, "-c", folder / "nginx.conf"]


def _caddy(folder: Path, server: Server, ports: tuple[int, int], edit: tuple[str, str]) -> list[object]:
    configuration = _replace(
        (DEPLOY / "Caddyfile").read_text(),
        (f"\n{HOST} {{", f"\n{HOST}:{ports[0]} {{\n\ttls {folder}/cert.pem {folder}/key.pem"),
        ("127.0.0.1:8000", f"127.0.0.1:{server.port}"),
        edit,
    )
    options = f"{{\n\tadmin off\n\thttp_port {ports[1]}\n\thttps_port {ports[0]}\n}}\n"
    (folder / "Caddyfile").write_text(options + configuration)
    return ["caddy", "run", "--adapter", "caddyfile", "--config", folder / "Caddyfile"]


def _haproxy(folder: Path, server: Server, ports: tuple[int, int], edit: tuple[str, str]) -> list[object]:
    configuration = _replace(
        (DEPLOY / "haproxy.cfg").read_text(),
        ("bind :443 ssl", f"bind 127.0.0.1:{ports[0]} ssl"),
        ("bind :80", f"bind 127.0.0.1:{ports[1]}"),
        ("127.0.0.1:8000", f"127.0.0.1:{server.port}"),
        ("/etc/ssl/media.example.org.pem", folder / "both.pem"),
        edit,
    )
    (folder / "both.pem").write_text((folder / "cert.pem").read_text() + (folder / "key.pem").read_text())
    (folder / "haproxy.cfg").write_text(configuration)
    return ["haproxy", "-db", "-f", folder / "haproxy.cfg"]
