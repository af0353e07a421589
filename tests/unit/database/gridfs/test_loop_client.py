"""Reading MongoDB from the event loop: logins, TLS, broken replies, lost connections, cancellation."""

import asyncio
import os
import shutil
import socket
import struct
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, aclosing, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import uvloop
from pymongo.database import Database

from app.database.gridfs.backend import GridBackend
from app.database.gridfs.loop_client import MAX_CONNECTIONS, can_follow
from app.database.gridfs.loop_connection import ReplyBuffers
from app.database.gridfs.op_msg import decode_document
from app.database.gridfs.opening import open_gridfs
from app.settings import Settings
from app.storage.async_storage import ThreadedStorage
from app.storage.readahead import MemoryBudget
from app.storage.types import SHARED, Key
from deploy.run_gridfs import Mongod as Bare
from tests.support import mongo, skip_or_fail
from tests.unit.database.gridfs.conftest import Commands

FILM = Key(SHARED, "", "film.mp4")
DATA = os.urandom(3_000_000)


@asynccontextmanager
async def library(
    url: str, budget: MemoryBudget | None = None
) -> AsyncIterator[tuple[ThreadedStorage, GridBackend]]:
    """Open a library with one film."""
    with ExitStack() as stack:
        backend = open_gridfs(Settings(_env_file=None, storage="gridfs", mongodb_url=url), stack)
        storage = ThreadedStorage(backend, budget=budget)
        stack.callback(storage.close)
        async with storage.stage() as staged:
            await staged.write(DATA)
            await storage.commit(FILM, staged, content_type="video/mp4")
        yield storage, backend


async def read(storage: ThreadedStorage, start: int = 0, stop: int = len(DATA)) -> bytes:
    async with storage.open(FILM) as file, aclosing(file.read(start, stop)) as data:
        return b"".join([piece async for piece in data])


async def check_reads(url: str) -> None:
    async with library(url) as (storage, _):
        for _ in range(2):
            assert await read(storage) == DATA
            assert await read(storage, 100_000, 1_500_000) == DATA[100_000:1_500_000]


def driver_reads(commands: Commands) -> list[dict[str, Any]]:
    return [command for command in commands.sent if command.get("find") == "fs.chunks"]


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_bytes_are_read_without_driver(commands: Commands, run: Callable[[Any], None]) -> None:
    run(check_reads(str(mongo.gridfs()["mongodb_url"])))
    assert driver_reads(commands) == []


# Logins and TLS


def with_user(url: str, user: str, password: str, options: str = "") -> str:
    head, _, rest = url.partition("://")
    return f"{head}://{quote(user, safe='')}:{quote(password, safe='')}@{rest}{options}"


async def users_of_connection(backend: GridBackend) -> list[dict[str, str]]:
    """Return the users that are logged in on a connection of the event loop, as the server knows them."""
    command = {"aggregate": 1, "pipeline": [{"$currentOp": {}}], "cursor": {}, "$db": "admin"}
    reply = await backend.client.ask(command, 1 << 20)
    assert reply is not None
    operations = decode_document(reply.body, reply.size)["cursor"]["firstBatch"]
    ours = next(one for one in operations if "$currentOp" in str(one.get("command")))
    assert ours["appName"] == "seekable"
    return list(ours["effectiveUsers"])


@pytest.mark.parametrize("offered", [["SCRAM-SHA-1"], ["SCRAM-SHA-256"], ["SCRAM-SHA-1", "SCRAM-SHA-256"]])
@pytest.mark.parametrize("chosen", [False, True])
def test_login_uses_scram(commands: Commands, offered: list[str], chosen: bool) -> None:
    url = str(mongo.gridfs()["mongodb_url"])
    database = mongo.database(url)
    user, password = "us=er,1", "p@s/s\u00ad w\u00f6rd"
    roles = [{"role": "readWrite", "db": database.name}]
    database.command("createUser", user, pwd=password, roles=roles, mechanisms=offered)
    options = f"&authSource={database.name}" + f"&authMechanism={offered[0]}" * chosen

    async def scenario() -> None:
        async with library(with_user(url, user, password, options)) as (storage, backend):
            assert await read(storage) == DATA
            assert await users_of_connection(backend) == [{"user": user, "db": database.name}]

    asyncio.run(scenario())
    assert driver_reads(commands) == []


def certificates(folder: Path) -> tuple[Path, Path]:
    """Make a certificate of an authority, and one that it signed for the server 127.0.0.1 and a client."""
    if shutil.which("openssl") is None:
        skip_or_fail("needs openssl")

    def openssl(*arguments: object) -> None:
        subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, cwd=folder)

    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", 2, "-subj", "/CN=authority",
            "-keyout", "ca.key", "-out", "ca.pem")  # fmt: skip
    openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=me", "-keyout", "me.key", "-out", "me.csr")
    (folder / "ext").write_text("subjectAltName=IP:127.0.0.1")
    openssl("x509", "-req", "-in", "me.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
            "-days", 2, "-extfile", "ext", "-out", "me.crt")  # fmt: skip
    own = folder / "me.pem"
    own.write_text((folder / "me.key").read_text() + (folder / "me.crt").read_text())
    return folder / "ca.pem", own


@pytest.fixture(scope="module")
def tls() -> Iterator[tuple[str, Path, Path]]:
    """Start a MongoDB that accepts TLS. Yields the URL of a library, the authority, and a certificate."""
    with mongo.temporary_folder() as folder:
        authority, own = certificates(folder)
        options = (
            "--tlsMode", "preferTLS", "--tlsAllowConnectionsWithoutCertificates",
            "--tlsCertificateKeyFile", str(own), "--tlsCAFile", str(authority),
        )  # fmt: skip
        node = Bare(folder / "data", mongo.free_port(), *options, replica_set="")
        try:
            yield node.start().url("library"), authority, own
        finally:
            node.stop()


@pytest.mark.parametrize(
    "options",
    ["tlsCAFile={authority}", "tlsCAFile={authority}&tlsCertificateKeyFile={own}", "tlsInsecure=true"],
)
def test_bytes_are_read_over_tls(commands: Commands, tls: tuple[str, Path, Path], options: str) -> None:
    url, authority, own = tls
    asyncio.run(check_reads(f"{url}?tls=true&{options.format(authority=authority, own=own)}"))
    assert driver_reads(commands) == []
    uvloop.run(check_reads(f"{url}?tls=true&{options.format(authority=authority, own=own)}"))


@pytest.mark.parametrize("options", ["authMechanism=MONGODB-X509&authSource=%24external", "compressors=zlib"])
def test_driver_reads_when_connections_cannot_follow_url(
    commands: Commands, tls: tuple[str, Path, Path], options: str
) -> None:
    url, authority, own = tls
    with suppress(Exception):  # a second time, it exists
        mongo.database(url).client["$external"].command("createUser", "CN=me", roles=[])
    asyncio.run(check_reads(f"{url}?tls=true&tlsCAFile={authority}&tlsCertificateKeyFile={own}&{options}"))
    assert driver_reads(commands)


@pytest.mark.parametrize(
    ("options", "user", "expected"),
    [
        ({}, None, True),
        ({}, "me", True),
        ({"replicaset": "rs", "authsource": "admin", "retrywrites": True}, "me", True),
        ({"authmechanism": "SCRAM-SHA-1"}, "me", True),
        ({"authmechanism": "SCRAM-SHA-256"}, "me", True),
        ({"authmechanism": "MONGODB-X509"}, None, False),
        ({"authmechanism": "MONGODB-AWS"}, "me", False),
        ({"authmechanism": "MONGODB-OIDC", "authmechanismproperties": {}}, None, False),
        ({"authmechanism": "PLAIN"}, "me", False),
        ({"authmechanism": "GSSAPI"}, "me", False),
        ({"compressors": ["zstd"]}, None, False),
        ({"loadbalanced": True}, None, False),
        ({"retryreads": False}, None, False),
        ({"tls": True, "tlscafile": "x"}, None, True),
        ({"tlscafile": "x"}, None, False),
        ({"anynewoption": 1}, None, False),
    ],
)
def test_options_decide_who_reads(options: dict[str, Any], user: str | None, expected: bool) -> None:
    assert can_follow(options, user) == expected


def test_driver_reads_over_tls_if_it_can_check_for_revoked_certificates(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pymongo.ssl_support.HAVE_PYSSL", True)
    assert not can_follow({"tls": True}, None)
    assert can_follow({}, None)


# Broken replies


Change = Callable[[bytes], bytes]


class ReplyChanger:
    """A proxy in front of a mongod that may change the next long reply, or hold it back halfway."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = []
        self.change: Change | None = None
        self.hold = False
        self.held, self.resume = threading.Event(), threading.Event()
        self.readers: set[int] = set()
        """The connections on which long replies were sent."""
        self._start(self._accept)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def close(self) -> None:
        self.resume.set()
        for one in [self._listener, *self._sockets]:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        threading.Thread(target=target, args=arguments, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._port))
                self._sockets += [client, server]
                self._start(self._forward, client, server)
                self._start(self._replies, server, client, len(self._sockets))

    def _forward(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)

    def _replies(self, source: socket.socket, target: socket.socket, number: int) -> None:
        with suppress(OSError, struct.error):
            stream = source.makefile("rb")
            while True:
                header = stream.read(4)
                message = header + stream.read(struct.unpack("<i", header)[0] - 4)
                if len(message) > 100_000:
                    self.readers.add(number)
                    if self.change is not None:
                        change, self.change = self.change, None
                        target.sendall(change(message))
                        if change is HALF:
                            break
                        continue
                    if self.hold:
                        self.hold = False
                        target.sendall(message[:50_000])
                        self.held.set()
                        self.resume.wait(30)
                        message = message[50_000:]
                target.sendall(message)
        with suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)


def HALF(message: bytes) -> bytes:  # noqa: N802 - beside the other changes
    return message[: len(message) // 2]


CHANGES: dict[str, Change] = {
    "shorter length": lambda message: struct.pack("<i", len(message) - 1) + message[4:],
    "negative length": lambda message: struct.pack("<i", -1) + message[4:],
    "enormous length": lambda message: struct.pack("<i", (1 << 31) - 1) + message[4:],
    "longer than asked for": lambda message: struct.pack("<i", 47_000_000) + message[4:],
    "reply to another request": lambda message: message[:8] + struct.pack("<i", 12345) + message[12:],
    "another kind of message": lambda message: message[:12] + struct.pack("<i", 1) + message[16:],
    "flags": lambda message: message[:16] + struct.pack("<I", 2) + message[20:],
    "another kind of section": lambda message: message[:20] + b"\1" + message[21:],
    "closed in the middle": HALF,
    "a second reply": lambda message: message + message,
    "bytes after it": lambda message: message + bytes(20),
    "not BSON": lambda message: message[:25] + bytes(len(message) - 25),
    "a chunk twice": lambda message: message.replace(b"\x10n\0\1\0\0\0", b"\x10n\0\0\0\0\0", 1),
}


@contextmanager
def changer() -> Iterator[tuple[ReplyChanger, str]]:
    name = str(mongo.gridfs()["mongodb_url"]).rpartition("/")[2].partition("?")[0]
    proxy = ReplyChanger(mongo.shared().port)
    try:
        yield proxy, f"mongodb://{proxy.host}/{name}?directConnection=true"
    finally:
        proxy.close()


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_bytes_are_right_when_a_reply_is_broken(run: Callable[[Any], None]) -> None:
    async def scenario(proxy: ReplyChanger, url: str) -> None:
        async with library(url) as (storage, _):
            for name, change in CHANGES.items():
                proxy.change = change
                for _ in range(3):
                    assert await read(storage, 0, 500_000) == DATA[:500_000], name
                assert proxy.change is None
                assert await read(storage) == DATA, name

    with changer() as (proxy, url):
        run(scenario(proxy, url))


def test_connection_is_used_again_unless_its_reply_was_broken() -> None:
    async def scenario(proxy: ReplyChanger, url: str) -> None:
        async with library(url) as (storage, _):
            for _ in range(5):
                assert await read(storage) == DATA
            assert len(proxy.readers) == 1
            proxy.change = CHANGES["reply to another request"]
            assert await read(storage, 0, 500_000) == DATA[:500_000]
            before, proxy.readers = proxy.readers, set()
            assert await read(storage) == DATA
            assert before.isdisjoint(proxy.readers)

    with changer() as (proxy, url):
        asyncio.run(scenario(proxy, url))


def test_read_that_is_cancelled_releases_memory_and_connection() -> None:
    async def scenario(proxy: ReplyChanger, url: str) -> None:
        budget = MemoryBudget()
        async with library(url, budget) as (storage, _):
            proxy.hold = True
            reading = asyncio.create_task(read(storage))
            await asyncio.to_thread(proxy.held.wait, 30)
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
            assert (budget.held, budget.lent) == (0, 0)
            assert await read(storage) == DATA  # while the rest of the reply has not arrived
            proxy.resume.set()
            for _ in range(5):
                assert await read(storage) == DATA
            assert len(proxy.readers) == 2

    with changer() as (proxy, url):
        asyncio.run(scenario(proxy, url))


def test_reply_is_not_late_because_the_event_loop_was_blocked() -> None:
    async def scenario() -> None:
        async with library(str(mongo.gridfs()["mongodb_url"])) as (storage, backend):
            loop = asyncio.get_running_loop()
            clock, blocked_s = loop.time, 0
            loop.time = lambda: clock() + blocked_s  # type: ignore[method-assign]
            for turns in range(40):  # before, during and after the login, and each query
                reading = asyncio.create_task(read(storage, 0, 1000))
                for _ in range(turns):
                    await asyncio.sleep(0)
                blocked_s += 100
                assert await reading == DATA[:1000]
                if turns % 2:
                    backend.client._close_idle()

    asyncio.run(scenario())


def test_connections_are_bounded_and_closed_at_the_end() -> None:
    async def scenario(database: Database[Any], url: str) -> None:
        before = connections(database)
        async with library(url) as (storage, backend):
            assert {*await asyncio.gather(*(read(storage) for _ in range(3 * MAX_CONNECTIONS)))} == {DATA}
            assert connections(database) - before <= MAX_CONNECTIONS + 30  # the latter are of the driver
            backend.client.close()
            assert await read(storage) == DATA  # through the driver
        for _ in range(500):
            if connections(database) <= before:
                return
            await asyncio.sleep(0.01)
        raise AssertionError("connections remain open")

    url = str(mongo.gridfs()["mongodb_url"])
    asyncio.run(scenario(mongo.database(url), url))


def connections(database: Database[Any]) -> int:
    return int(database.client.admin.command("serverStatus")["connections"]["current"])


def test_buffer_is_not_used_again_while_its_bytes_are_referred_to() -> None:
    buffers = ReplyBuffers()
    piece = memoryview(buffers.take(100_000))[10:20]
    first, kept = piece.obj, piece[2:4]
    buffers.give(piece)
    del piece
    assert buffers.take(100_000) is not first
    del kept
    assert buffers.take(100_000) is first
    assert buffers.take(100_000) is not first
