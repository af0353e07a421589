"""Commands to MongoDB from the event loop, over connections of its own.

PyMongo discovers the primary, and decides everything unusual: a caller repeats each command through PyMongo,
in a thread, that cannot be sent here, or whose reply is not the usual one.
"""

import asyncio
import logging
import random
import secrets
import ssl
import time
from collections.abc import Mapping, Sequence
from typing import Any

from bson import Binary
from pymongo import ssl_support
from pymongo.topology_description import TopologyDescription

from app.database.gridfs import scram
from app.database.gridfs.connection import NO_REPLY, TIMEOUT_S, Connection
from app.database.gridfs.documents import RawDocument
from app.database.gridfs.loop_connection import LoopConnection, Reply, ReplyBuffers
from app.database.gridfs.op_msg import MAX_REPLY_SIZE, MalformedReply, decode_document, has_cursor
from app.storage.errors import StorageUnavailable

MAX_CONNECTIONS = 16
"""Queries at the same time, unless the URL allows fewer (maxPoolSize)."""

IDLE_S = 60.0
"""Seconds after which an unused connection is closed."""

PAUSE_S = 5.0
"""Seconds after a failed connection or login until another is tried; PyMongo sends all queries meanwhile."""

STALL_S = 1.0
"""Seconds by which a timeout is late only if the event loop was blocked. Less could be a crowd of requests to
a silent server, which must fail soon instead of being repeated."""

MAX_LOGIN_REPLY = 64 << 10
"""Bytes of a reply during the login."""

_MAX_TIME_EXPIRED = 50  # MaxTimeMSExpired

_TLS_OPTIONS = {
    "tls",
    "tlsallowinvalidcertificates",
    "tlsallowinvalidhostnames",
    "tlscafile",
    "tlscertificatekeyfile",
    "tlscertificatekeyfilepassword",
    "tlscrlfile",
    "tlsdisableocspendpointcheck",
    "tlsinsecure",
}

_OPTIONS = _TLS_OPTIONS | {
    "appname",
    "authmechanism",
    "authsource",
    "connecttimeoutms",
    "directconnection",
    "heartbeatfrequencyms",
    "journal",
    "localthresholdms",
    "maxpoolsize",
    "readconcernlevel",
    "readpreference",
    "replicaset",
    "retrywrites",
    "servermonitoringmode",
    "serverselectiontimeoutms",
    "srvmaxhosts",
    "srvservicename",
    "w",
    "wtimeoutms",
}
"""Options of a URL that these connections follow, or that do not concern them. With any other, such as
compression or a load balancer, PyMongo alone talks to the server."""

ServerAddress = tuple[str, int | None]
"""A host and a port; the path of a Unix socket without one."""

log = logging.getLogger(__name__)


def can_follow(options: Mapping[str, Any], user: str | None) -> bool:
    """Return whether connections here can do what a URL demands. The names of the options are lower case."""
    mechanism, tls = options.get("authmechanism"), bool(options.get("tls"))
    return (
        set(options) <= _OPTIONS
        and (mechanism is None or (mechanism in (scram.SHA_1, scram.SHA_256) and bool(user)))
        and (tls or not _TLS_OPTIONS & set(options))
        # With PyOpenSSL, the driver asks whether a certificate was revoked (OCSP), which `ssl` cannot.
        and not (tls and ssl_support.HAVE_PYSSL)
    )


def tls_context(options: Mapping[str, Any]) -> ssl.SSLContext | None:
    """Return the TLS settings of a URL; None without TLS. Raises OSError, ssl.SSLError."""
    if not options.get("tls"):
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # checks certificate and host name
    if options.get("tlsallowinvalidhostnames") or options.get("tlsallowinvalidcertificates"):
        context.check_hostname = False
    if options.get("tlsallowinvalidcertificates"):
        context.verify_mode = ssl.CERT_NONE
    if authority := options.get("tlscafile"):
        context.load_verify_locations(authority)
    else:
        context.load_default_certs()
    if crl := options.get("tlscrlfile"):
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
        context.load_verify_locations(crl)
    if certificate := options.get("tlscertificatekeyfile"):
        context.load_cert_chain(certificate, password=options.get("tlscertificatekeyfilepassword"))
    return context


class LoopClient:
    """Connections to the primary of a database. Used from one event loop only, but for `close`."""

    def __init__(self, database: Connection) -> None:
        uri = database.uri
        options = {name.lower(): value for name, value in uri["options"].items()}
        self._database = database
        self._login = Login(uri, options)
        self._usable = can_follow(options, uri["username"])
        self._tls = tls_context(options) if self._usable else None
        self._connect_timeout_s = float(options.get("connecttimeoutms") or 2.0)  # PyMongo parses to seconds
        self._limit = min(MAX_CONNECTIONS, options.get("maxpoolsize") or MAX_CONNECTIONS)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._places = asyncio.Semaphore(self._limit)
        self._open: dict[LoopConnection, ServerAddress] = {}
        self._idle: list[LoopConnection] = []  # the last one used is used next
        self._dropping: set[LoopConnection] = set()
        self._paused_until = 0.0
        self._sweeper: asyncio.TimerHandle | None = None
        self._described: TopologyDescription | None = None
        self._primaries: list[ServerAddress] = []
        self.buffers = ReplyBuffers()

    def close(self) -> None:
        """Close all connections; queries in progress fail. Called in the event loop, or after its end."""
        self._usable = False
        if self._sweeper is not None:
            self._sweeper.cancel()
        if self._loop is not None and not self._loop.is_closed():
            for connection in list(self._open):
                connection.abort()

    async def ask(self, command: RawDocument, max_size: int) -> Reply | None:
        """Return the reply to a command that reads, and whose document begins with a cursor.

        Returns None if PyMongo has to send it instead, for whatever reason. Raises StorageUnavailable if the
        server does not reply in time.
        """
        replies = await self._ask([command], max_size)
        if replies is None or has_cursor(replies[0].body):
            return None if replies is None else replies[0]
        self._decode(replies[0])
        return None

    async def run(self, commands: Sequence[RawDocument]) -> list[RawDocument] | None:
        """Return the replies to commands of the database, which are sent together and run in this order.

        Returns None if PyMongo has to send them instead, for whatever reason: some may have run. Raises
        StorageUnavailable if the server does not reply in time.
        """
        named = [{**command, "$db": self._database.name} for command in commands]
        replies = await self._ask(named, MAX_REPLY_SIZE)
        if replies is None:
            return None
        decoded = [self._decode(reply) for reply in replies]
        return None if None in decoded else [each for each in decoded if each is not None]

    async def _ask(self, commands: Sequence[RawDocument], max_size: int) -> list[Reply] | None:
        if not self._usable or time.monotonic() < self._paused_until:
            return None
        self._enter_loop()
        await self._places.acquire()
        connection = None
        limited = [{**command, "maxTimeMS": int(TIMEOUT_S * 1000)} for command in commands]
        deadline = asyncio.timeout(TIMEOUT_S)
        try:
            async with deadline:
                connection = self._take_idle() or await self._connect()
                return None if connection is None else await connection.ask_all(limited, max_size)
        except TimeoutError as error:
            if connection is not None:
                connection.abort()
            if _was_blocked(deadline):
                return None
            self._database.mark_unreachable()
            raise StorageUnavailable(NO_REPLY) from error
        except (OSError, MalformedReply):  # OSError: the connection was lost
            self._close_idle()  # others are probably lost as well
            return None
        finally:
            self._release(connection)

    def _decode(self, reply: Reply) -> RawDocument | None:
        """Return the document of a reply; None for an error. Raises StorageUnavailable if the server was out
        of time."""
        try:
            document = decode_document(reply.body, reply.size, self._database.codec_options)
        except MalformedReply:
            return None
        if document.get("ok") == 1:
            return document
        if document.get("code") == _MAX_TIME_EXPIRED:
            raise StorageUnavailable(NO_REPLY) from TimeoutError("MaxTimeMSExpired")
        return None

    def _enter_loop(self) -> None:
        """Forget the connections of an earlier event loop, which ended with it."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop = loop
            self._places = asyncio.Semaphore(self._limit)
            self._open, self._idle, self._dropping = {}, [], set()
            self._sweeper = None

    def _current_primaries(self) -> list[ServerAddress]:
        """Return the servers that accept writes, as PyMongo knows them; several only for routers (mongos)."""
        description = self._database.client.topology_description
        if description is not self._described:
            self._described = description
            servers = description.server_descriptions()
            self._primaries = [address for address, server in servers.items() if server.is_writable]
        return self._primaries

    def _take_idle(self) -> LoopConnection | None:
        primaries = self._current_primaries()
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open and self._open.get(connection) in primaries:
                return connection
            connection.abort()
        return None

    async def _connect(self) -> LoopConnection | None:
        """Return a new connection to a primary, after the login. Returns None if that fails.

        Raises TimeoutError.
        """
        primaries = self._current_primaries()
        if not primaries:
            return None
        host, port = address = random.choice(primaries)
        assert self._loop is not None
        connection = LoopConnection(self.buffers, self._ended)
        self._open[connection] = address
        name = host if self._tls else None
        deadline = asyncio.timeout(self._connect_timeout_s)
        try:
            async with deadline:
                if port is None:
                    await self._loop.create_unix_connection(
                        lambda: connection, host, ssl=self._tls, server_hostname=name
                    )
                else:
                    await self._loop.create_connection(
                        lambda: connection, host, port, ssl=self._tls, server_hostname=name
                    )
                await self._login.log_in(connection)
        except BaseException as error:
            connection.abort()
            self._open.pop(connection, None)
            if isinstance(error, TimeoutError) and _was_blocked(deadline):
                return None
            if isinstance(error, OSError | MalformedReply | scram.ScramError) and not isinstance(
                error, TimeoutError
            ):
                self._paused_until = time.monotonic() + PAUSE_S
                log.warning("Reading MongoDB at %s in threads for %d s: %s", host, PAUSE_S, error)
                return None
            raise
        return connection

    def _release(self, connection: LoopConnection | None) -> None:
        """Keep a connection for the next query, unless it was closed. One that is still busy is released
        when its reply has arrived."""
        if connection is not None and connection.is_open:
            if connection.is_busy:
                self._dropping.add(connection)
                connection.drop_reply(TIMEOUT_S)
                return
            self._keep(connection)
        self._places.release()

    def _ended(self, connection: LoopConnection) -> None:
        if not connection.is_open:
            self._open.pop(connection, None)
            if connection in self._idle:
                self._idle.remove(connection)
        if connection in self._dropping:
            self._dropping.remove(connection)
            if connection.is_open:
                self._keep(connection)
            self._places.release()

    def _keep(self, connection: LoopConnection) -> None:
        connection.idle_since = time.monotonic()
        self._idle.append(connection)
        if self._sweeper is None:
            assert self._loop is not None
            self._sweeper = self._loop.call_later(IDLE_S, self._sweep)

    def _sweep(self) -> None:
        """Close the connections that were idle for long, the oldest of which is the first."""
        self._sweeper = None
        while self._idle and self._idle[0].idle_since < time.monotonic() - IDLE_S / 2:
            self._idle.pop(0).abort()
        if self._idle:
            assert self._loop is not None
            self._sweeper = self._loop.call_later(IDLE_S, self._sweep)

    def _close_idle(self) -> None:
        while self._idle:
            self._idle.pop().abort()


def _was_blocked(deadline: asyncio.Timeout) -> bool:
    """Return whether the event loop was blocked when the deadline passed: the reply may be in time."""
    when = deadline.when()
    return deadline.expired() and when is not None and asyncio.get_running_loop().time() > when + STALL_S


class Login:
    """The first commands on a connection: the handshake, and SCRAM if the URL names a user."""

    def __init__(self, uri: Mapping[str, Any], options: Mapping[str, Any]) -> None:
        self._user: str | None = uri["username"]
        self._password: str = uri["password"] or ""
        self._source: str = options.get("authsource") or uri["database"] or "admin"
        self._mechanism: str | None = options.get("authmechanism")
        self._application: str = options.get("appname") or "seekable"
        self._keys: dict[tuple[str, bytes, int], scram.Keys] = {}

    async def log_in(self, connection: LoopConnection) -> None:
        """Log in to a primary. Raises ConnectionError, MalformedReply, ScramError."""
        client = {
            "application": {"name": self._application},
            "driver": {"name": "seekable", "version": "1"},
            "os": {"type": "unknown"},
        }
        hello: RawDocument = {"hello": 1, "client": client, "$db": "admin"}
        if self._user is not None:
            hello["saslSupportedMechs"] = f"{self._source}.{self._user}"
        answer = await _command(connection, hello)
        if not answer.get("isWritablePrimary"):
            raise ConnectionRefusedError("the server is no primary")
        if self._user is not None:
            offered = answer.get("saslSupportedMechs") or []
            mechanism = self._mechanism or (scram.SHA_256 if scram.SHA_256 in offered else scram.SHA_1)
            await self._authenticate(connection, mechanism, self._user)

    async def _authenticate(self, connection: LoopConnection, mechanism: str, user: str) -> None:
        nonce = secrets.token_urlsafe(24)
        first = scram.client_first(user, nonce)
        start = {
            "saslStart": 1,
            "mechanism": mechanism,
            "payload": Binary(f"n,,{first}".encode()),
            "options": {"skipEmptyExchange": True},
            "$db": self._source,
        }
        answer = await _command(connection, start)
        message = _payload(answer)
        challenge = scram.parse_challenge(message, nonce)
        keys = await self._derive_keys(mechanism, user, challenge)
        final, signature = scram.client_final(mechanism, keys, first, message, challenge.nonce)
        answer = await self._continue(connection, answer, final.encode())
        scram.check_server_final(_payload(answer), signature)
        if not answer.get("done"):  # an old server expects an empty message
            answer = await self._continue(connection, answer, b"")
        if not answer.get("done"):
            raise scram.ScramError("a login without end")

    async def _continue(self, connection: LoopConnection, answer: RawDocument, payload: bytes) -> RawDocument:
        number = answer.get("conversationId")
        command = {"saslContinue": 1, "conversationId": number, "payload": payload, "$db": self._source}
        return await _command(connection, command)

    async def _derive_keys(self, mechanism: str, user: str, challenge: scram.Challenge) -> scram.Keys:
        of = (mechanism, challenge.salt, challenge.iterations)
        if of not in self._keys:
            password = scram.prepare_password(mechanism, user, self._password)
            keys = await asyncio.to_thread(scram.derive_keys, mechanism, password, challenge)
            self._keys = {of: keys}
        return self._keys[of]


async def _command(connection: LoopConnection, command: RawDocument) -> RawDocument:
    """Return the reply to a command of the login. Raises ConnectionRefusedError if it is an error."""
    reply = await connection.ask(command, MAX_LOGIN_REPLY)
    answer = decode_document(reply.body, reply.size)
    if answer.get("ok") != 1:
        raise ConnectionRefusedError(str(answer.get("errmsg")))
    return answer


def _payload(answer: RawDocument) -> bytes:
    payload = answer.get("payload")
    if not isinstance(payload, bytes):
        raise scram.ScramError("a reply without a message")
    return payload
