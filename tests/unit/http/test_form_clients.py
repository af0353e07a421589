"""Forms as real clients encode them."""

import socket
import subprocess
import threading
from email.mime.application import MIMEApplication
from email.mime.multipart import MIMEMultipart
from email.policy import HTTP
from pathlib import Path

import httpx
import pytest

from app.http.multipart import Event, Field, FileData, FileStarted, FormReader, boundary_of
from tests.support import need

CONTENT = bytes(range(256)) * 300
"""Longer than one chunk of any client, and with every byte value."""

NAMES = [
    "film.mkv",
    'say "hi".mkv',
    "a;b; filename=c.mkv",
    "a=b & 100% #1?.mkv",
    "🎬 Ελλάδα.mkv",
    "סרט.mkv",
    "-rf.mkv",
    ".hidden",
    " spaces .mkv",
    "'quoted'.mkv",
    "comma, colon: plus+.mkv",
]


def read(content_type: str | None, body: bytes) -> list[Event]:
    """Feed a body in chunks of odd length. Return the events, with the file's bytes joined at the end."""
    reader = FormReader(boundary_of(content_type))
    events = [event for at in range(0, len(body), 4099) for event in reader.feed(body[at : at + 4099])]
    reader.finish()
    data = b"".join(event.data for event in events if isinstance(event, FileData))
    return [event for event in events if not isinstance(event, FileData)] + [FileData(data)]


@pytest.mark.parametrize("filename", [*NAMES, "back\\slash.mkv", "line\r\nbreak.mkv"])
def test_form_of_httpx_is_read(filename: str) -> None:
    request = httpx.Request(
        "POST",
        "http://localhost/",
        data={"folder": "a/β", "sid": "7"},
        files={"file": (filename, CONTENT, "video/x-matroska")},
    )
    assert read(request.headers["content-type"], request.read()) == [
        Field("folder", "a/β"),
        Field("sid", "7"),
        FileStarted(filename, "video/x-matroska"),
        FileData(CONTENT),
    ]


def test_form_of_email_package_with_quoted_boundary_is_read() -> None:
    form = MIMEMultipart("form-data", boundary="=== a (boundary) with, spaces ===", policy=HTTP)
    file = MIMEApplication(b"film", "x-film", lambda part: None, policy=HTTP)
    file.add_header("Content-Disposition", "form-data", name="file", filename='a "b"; c.mkv')
    form.attach(file)
    _, _, body = form.as_bytes().partition(b"\r\n\r\n")
    assert read(form["Content-Type"], body) == [
        FileStarted('a "b"; c.mkv', "application/x-film"),
        FileData(b"film"),
    ]


class Capture:
    """A server on a free loopback port that records the body of one request."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(30)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/file/upload"
        self.content_type: str | None = None
        self.body = b""
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with self._listener, self._listener.accept()[0] as connection, connection.makefile("rb") as stream:
            stream.readline()
            length = 0
            while line := stream.readline().decode().strip():
                name, _, value = line.partition(": ")
                if name.lower() == "content-type":
                    self.content_type = value
                elif name.lower() == "content-length":
                    length = int(value)
            self.body = stream.read(length)
            connection.sendall(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    def join(self) -> None:
        self._thread.join(30)


def curl(*arguments: str) -> Capture:
    capture = Capture()
    command = ["curl", "-q", "-sS", "--fail", "--noproxy", "*", "--max-time", "20", "-H", "Expect:"]
    subprocess.run([*command, *arguments, capture.url], check=True, timeout=30)
    capture.join()
    return capture


@pytest.mark.parametrize("escape", [[], ["--form-escape"]], ids=["percent", "backslash"])
@pytest.mark.parametrize("filename", [*NAMES, "back\\slash.mkv", "line\nbreak.mkv"])
def test_form_of_curl_is_read(filename: str, escape: list[str], tmp_path: Path) -> None:
    need("curl")
    if escape and "\n" in filename:
        escape = []  # --form-escape does not escape line breaks, and a raw one is refused
    path = tmp_path / filename
    path.write_bytes(CONTENT)
    quoted = str(path).replace("\\", "\\\\").replace('"', '\\"')
    capture = curl(*escape, "-F", "folder=a/β", "-F", f'file=@"{quoted}"', "-F", "sid=7")
    assert read(capture.content_type, capture.body) == [
        Field("folder", "a/β"),
        FileStarted(filename, "application/octet-stream"),
        Field("sid", "7"),
        FileData(CONTENT),
    ]


# Requests of other clients, recorded, or written from their source code.
RECORDED = {
    "Firefox and Chrome, with an unfilled input": (
        "multipart/form-data; boundary=----WebKitFormBoundary7MA4YWxkTrZu0gW",
        b"------WebKitFormBoundary7MA4YWxkTrZu0gW\r\n"
        b'Content-Disposition: form-data; name="folder"\r\n\r\n\r\n'
        b"------WebKitFormBoundary7MA4YWxkTrZu0gW\r\n"
        b'Content-Disposition: form-data; name="file"; filename="a %22b%22; c.mkv"\r\n'
        b"Content-Type: video/x-matroska\r\n\r\nfilm\r\n"
        b"------WebKitFormBoundary7MA4YWxkTrZu0gW\r\n"
        b'Content-Disposition: form-data; name="poster"; filename=""\r\n'
        b"Content-Type: application/octet-stream\r\n\r\n\r\n"
        b"------WebKitFormBoundary7MA4YWxkTrZu0gW--\r\n",
        [
            Field("folder", ""),
            FileStarted('a "b"; c.mkv', "video/x-matroska"),
            Field("poster", ""),
            FileData(b"film"),
        ],
    ),
    "requests": (
        "multipart/form-data; boundary=0f1b6e1a6a5a4b0f8a3c1a0d7c2b9e55",
        b"--0f1b6e1a6a5a4b0f8a3c1a0d7c2b9e55\r\n"
        b'Content-Disposition: form-data; name="folder"\r\n\r\nshows\r\n'
        b"--0f1b6e1a6a5a4b0f8a3c1a0d7c2b9e55\r\n"
        b'Content-Disposition: form-data; name="file"; filename="\xf0\x9f\x8e\xac.mkv"\r\n\r\nfilm\r\n'
        b"--0f1b6e1a6a5a4b0f8a3c1a0d7c2b9e55--\r\n",
        [Field("folder", "shows"), FileStarted("🎬.mkv", None), FileData(b"film")],
    ),
    "Go": (
        "multipart/form-data; boundary=9a1c0f3d2b",
        b'--9a1c0f3d2b\r\nContent-Disposition: form-data; name="file"; filename="a \\"b\\".mkv"\r\n'
        b"Content-Type: application/octet-stream\r\n\r\nfilm\r\n--9a1c0f3d2b--\r\n",
        [FileStarted('a "b".mkv', "application/octet-stream"), FileData(b"film")],
    ),
    ".NET": (
        'multipart/form-data; boundary="5cf9c4b9-3c3c-4a0e-b4e6-5d4a1f1b8a11"',
        b"--5cf9c4b9-3c3c-4a0e-b4e6-5d4a1f1b8a11\r\n"
        b"Content-Type: text/plain; charset=utf-8\r\nContent-Disposition: form-data; name=sid\r\n\r\n7\r\n"
        b"--5cf9c4b9-3c3c-4a0e-b4e6-5d4a1f1b8a11\r\n"
        b"Content-Disposition: form-data; name=file; filename=a.mkv; filename*=utf-8''a.mkv\r\n\r\nfilm\r\n"
        b"--5cf9c4b9-3c3c-4a0e-b4e6-5d4a1f1b8a11--\r\n",
        [Field("sid", "7"), FileStarted("a.mkv", None), FileData(b"film")],
    ),
    "Apache HttpClient": (
        "multipart/form-data; charset=UTF-8; boundary=Xq1_-Z",
        b'--Xq1_-Z\r\nContent-Disposition: form-data; name="file"; filename="a.mkv"\r\n'
        b"Content-Type: video/x-matroska\r\nContent-Transfer-Encoding: binary\r\n\r\nfilm\r\n--Xq1_-Z--\r\n",
        [FileStarted("a.mkv", "video/x-matroska"), FileData(b"film")],
    ),
}


@pytest.mark.parametrize("client", RECORDED)
def test_recorded_form_is_read(client: str) -> None:
    content_type, body, events = RECORDED[client]
    assert read(content_type, body) == events
