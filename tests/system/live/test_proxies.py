"""The sample configurations of deploy/ in real proxies, which must not write bodies to disk."""

import itertools
import json
import re
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import httpx
import pytest

from tests.support import Server, find_external_addresses, noise, running
from tests.system.live.clients import sha256, until
from tests.system.live.proxies import HOST, Proxy, proxy

pytestmark = pytest.mark.live

MIB = 1 << 20
PROXIES = ["nginx", "caddy", "haproxy"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("behind")
    with running(folder, access="open", allowed_hosts=HOST) as server:
        yield server


@pytest.fixture(scope="module", params=PROXIES)
def front(
    request: pytest.FixtureRequest, server: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Proxy]:
    with proxy(request.param, server, tmp_path_factory.mktemp("front") / request.param) as front:
        yield front


@pytest.fixture
def client(front: Proxy) -> Iterator[httpx.Client]:
    with front.client() as client:
        yield client


def test_proxy_passes_upload_of_64_mib_and_ranges(front: Proxy, client: httpx.Client, folder: str) -> None:
    film = noise(64 * MIB)
    uploaded = client.put(f"/files/{folder}/film.mp4", content=film, headers={"content-type": "video/mp4"})
    assert uploaded.status_code == 201
    assert uploaded.json()["sha256"] == sha256(film)

    middle = client.get(f"/files/{folder}/film.mp4", headers={"range": "bytes=33554432-34603007"})
    assert middle.status_code == 206
    assert middle.headers["content-range"] == f"bytes 33554432-34603007/{64 * MIB}"
    assert middle.content == film[32 * MIB : 33 * MIB]
    assert middle.headers["etag"] == uploaded.headers["etag"]

    end = client.get(
        f"/files/{folder}/film.mp4", headers={"range": "bytes=-5", "if-range": uploaded.headers["etag"]}
    )
    assert (end.status_code, end.content) == (206, film[-5:])
    two = client.get(f"/files/{folder}/film.mp4", headers={"range": "bytes=0-0,10-11"})
    assert two.headers["content-type"].startswith("multipart/byteranges")
    whole = client.get(f"/files/{folder}/film.mp4")
    assert sha256(whole.content) == sha256(film)
    beyond = client.get(f"/files/{folder}/film.mp4", headers={"range": f"bytes={64 * MIB}-"})
    assert beyond.status_code == 416


def test_upload_fails_when_proxy_buffers_it_on_disk(server: Server, tmp_path: Path) -> None:
    edit = ("proxy_request_buffering off;", "proxy_request_buffering on;")
    with proxy("nginx", server, tmp_path / "nginx", edit=edit) as front, front.client() as client:
        try:
            status = client.put("/files/kept.mp4", content=noise(64 * MIB)).status_code
        except httpx.TransportError:
            status = 0
        assert status != 201


def test_progress_is_sent_while_proxy_passes_upload(front: Proxy, folder: str) -> None:
    """The progress comes over a WebSocket through the same proxy."""
    with front.websocket("/") as websocket, closing(front.connect_tls()) as upload:
        sid = json.loads(websocket.recv(timeout=20))["sid"]
        head = [
            f"PUT /files/{folder}/film.mp4?sid={sid} HTTP/1.1",
            f"Host: {HOST}:{front.port}",
            f"Content-Length: {64 * MIB}",
        ]
        upload.sendall("\r\n".join([*head, "", ""]).encode())
        received = []
        for _ in range(32):  # half of the film
            upload.sendall(bytes(MIB))
            with suppress(TimeoutError):
                received.append(json.loads(websocket.recv(timeout=0.2))["progress"]["received"])
            if max(received, default=0) > 2 * MIB:
                return
        raise AssertionError(f"The progress was {received} after {32 * MIB} bytes were sent.")


def test_download_is_not_buffered_on_disk_when_reader_stalls(
    server: Server, front: Proxy, client: httpx.Client, folder: str
) -> None:
    film = noise(64 * MIB)
    with server.client() as inside:
        inside.put(f"/files/{folder}/film.mp4", content=film)
    with client.stream("GET", f"/files/{folder}/film.mp4") as download:
        time.sleep(0.5)  # time for a proxy that would buffer the whole film
        assert sha256(download.read()) == sha256(film)


def test_proxy_passes_chunked_upload(client: httpx.Client, folder: str) -> None:
    film = noise(3 * MIB)

    def pieces() -> Iterator[bytes]:
        for start in range(0, len(film), 100_000):
            yield film[start : start + 100_000]

    uploaded = client.put(f"/files/{folder}/chunked.mp4", content=pieces())
    assert uploaded.request.headers["transfer-encoding"] == "chunked"
    assert uploaded.json()["sha256"] == sha256(film)


def test_same_origin_may_subscribe_and_write_and_other_origin_may_not(
    front: Proxy, client: httpx.Client, folder: str
) -> None:
    """The proxy must pass the Host header unchanged, with its port."""
    with front.websocket("/events", origin=front.url) as events:
        assert json.loads(events.recv(timeout=20)) == {"type": "resync"}
        uploaded = client.put(f"/files/{folder}/a", content=b"a", headers={"origin": front.url})
        assert uploaded.status_code == 201
        assert json.loads(events.recv(timeout=20))["type"] == "file.created"
    other = {"origin": "https://elsewhere.example.org"}
    assert client.put(f"/files/{folder}/b", content=b"b", headers=other).status_code == 403


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n0\r\n\r\n" % (len(data), data)


def test_body_of_connect_is_not_parsed_as_request(
    server: Server, front: Proxy, client: httpx.Client, folder: str
) -> None:
    inner = f"PUT /files/{folder}/smuggled HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 1\r\n\r\nx".encode()
    bodies = {f"Content-Length: {len(inner)}": inner, "Transfer-Encoding: chunked": chunk(inner)}
    targets, delays = (f"{HOST}:443", "/files/film.mp4"), [number / 2000 for number in range(10)]
    # The head must arrive alone, and the body before the response, after which a proxy stops sending.
    for target, (framing, body), delay in itertools.product(targets, bodies.items(), delays):
        with closing(front.connect_tls()) as tunnel:
            head = f"CONNECT {target} HTTP/1.1\r\nHost: {HOST}:{front.port}\r\n{framing}\r\n\r\n"
            tunnel.sendall(head.encode())
            time.sleep(delay)
            with suppress(OSError):
                tunnel.sendall(body)
                assert tunnel.recv(4096).split(b" ", 2)[1] in (b"400", b"405", b"501", b"502")
    assert client.get(f"/files?folder={folder}").json()["items"] == []
    assert "smuggled" not in server.log()


UPGRADES = ["h2c", "websocket", "anything"]


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_upgrade_request_with_body_is_stored_whole(
    front: Proxy, client: httpx.Client, folder: str, *, chunked: bool
) -> None:
    for upgrade in UPGRADES:
        headers = {"connection": "Upgrade, HTTP2-Settings", "upgrade": upgrade, "http2-settings": "AAMAAABk"}
        content = iter([b"film"]) if chunked else b"film"
        uploaded = client.put(f"/files/{folder}/{upgrade}", content=content, headers=headers)
        assert uploaded.status_code == 201, uploaded.text
        assert client.get(f"/files/{folder}/{upgrade}").content == b"film"


def test_links_have_scheme_of_client(front: Proxy, client: httpx.Client, folder: str) -> None:
    uploaded = client.put(f"/files/{folder}/film.mp4", content=b"film")
    assert uploaded.json()["url"] == f"{front.url}/files/{folder}/film.mp4"


def test_proxy_does_not_pass_forwarded_headers_of_client(
    server: Server, client: httpx.Client, folder: str
) -> None:
    headers = {"x-forwarded-for": "192.0.2.7", "forwarded": "for=192.0.2.7"}
    client.get(f"/files/{folder}-forged", headers=headers)
    until(lambda: f"{folder}-forged" in server.log(), "the request is logged")
    (line,) = [line for line in server.log().splitlines() if f"{folder}-forged" in line]
    assert "192.0.2.7" not in line
    assert "127.0.0.1" in line


def test_plain_http_is_redirected_to_https(front: Proxy) -> None:
    response = httpx.get(
        f"http://127.0.0.1:{front.plain_port}/docs?a=b", headers={"host": HOST}, trust_env=False
    )
    assert response.status_code == 308
    assert re.fullmatch(rf"https://{HOST}(:\d+)?/docs\?a=b", response.headers["location"])


@pytest.mark.campaign
def test_proxy_passes_2_gib_without_buffering_in_memory(
    front: Proxy, client: httpx.Client, folder: str
) -> None:
    piece = noise(MIB)

    def film() -> Iterator[bytes]:
        for _ in range(2048):
            yield piece

    before = front.peak_memory()
    headers = {"content-length": str(2048 * MIB)}
    uploaded = client.put(f"/files/{folder}/film.mp4", content=film(), headers=headers)
    assert uploaded.status_code == 201
    with client.stream("GET", f"/files/{folder}/film.mp4") as download:
        assert sum(map(len, download.iter_raw())) == 2048 * MIB
    assert front.peak_memory() - before < 64 * MIB


@pytest.mark.parametrize(
    ("setting", "loopback_trusted", "outside_trusted"),
    [(None, True, False), ("", False, False), ("198.18.0.0/15", False, False), ("{outside}", False, True)],
)
def test_forwarded_headers_are_trusted_from_configured_addresses_only(
    tmp_path: Path, setting: str | None, *, loopback_trusted: bool, outside_trusted: bool
) -> None:
    (outside, *_) = find_external_addresses() or ["127.0.0.2"]
    settings = {} if setting is None else {"trusted_proxies": setting.format(outside=outside)}
    forwarded = [
        {"x-forwarded-for": "198.51.100.7", "x-forwarded-proto": "https, http"},
        {"forwarded": 'for="198.51.100.7:4711";proto=https'},
    ]
    with running(tmp_path, access="open", host="0.0.0.0", **settings) as server:
        for address, trusted in (("127.0.0.1", loopback_trusted), (outside, outside_trusted)):
            for number, headers in enumerate(forwarded):
                name = f"from-{address}-{number}"
                url = f"http://{address}:{server.port}/files/{name}"
                uploaded = httpx.put(url, content=b"film", headers=headers, trust_env=False)
                assert uploaded.json()["url"] == (url.replace("http:", "https:") if trusted else url)
                until(lambda name=name: name in server.log(), "the request is logged")
                (line,) = [line for line in server.log().splitlines() if name in line]
                assert ("198.51.100.7" in line) == trusted
