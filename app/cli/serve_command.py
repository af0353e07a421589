"""`seekable serve`: opens the listening sockets, prepares the database, and runs the server."""

import logging
import shlex
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from datetime import timedelta
from functools import partial
from socket import AF_UNIX, socket

import click

from app import logs
from app.accounts.models import new_invite
from app.cli.doctor import IGNORES_CASE
from app.database import open_accounts, prepare_database
from app.database.doctor_checks import ignores_case
from app.database.open_library import is_read_only
from app.http.addresses import is_loopback_host
from app.server.listen import activated_listeners, listen, listener_url, reachable
from app.server.unix_socket import unix_listener
from app.settings import ConfigurationError, Settings, load
from app.storage.errors import OutOfSpace

log = logging.getLogger(__name__)


@click.command("serve")
@click.option("--host", help="Address to listen on (SEEKABLE_HOST, 127.0.0.1).")
@click.option("--port", type=click.IntRange(0, 65535), help="Port, 0 for a free one (SEEKABLE_PORT, 8000).")
@click.option("--uds", metavar="PATH", help="Unix socket to listen on, instead of an address.")
@click.option("--reload", is_flag=True, help="Restart when the code changes, for development.")
def serve_command(host: str | None, port: int | None, uds: str | None, reload: bool) -> None:
    """Serve the library. An SQL database is migrated first.

    Uses the sockets that systemd opened (a .socket unit) instead of an address.
    """
    if uds is not None and (host, port) != (None, None):
        raise click.UsageError("--uds cannot be combined with --host or --port.")
    with ExitStack() as stack:
        settings = load(lambda settings: logs.configure(settings.log_format))
        listeners, host = _listeners(settings, host, port, uds, stack)  # before the database is touched
        prepare_database(settings)  # its errors become messages here; in the server, tracebacks
        sign_up = _first_sign_up(settings, _base(settings, listeners[0], host))

        announce = partial(_announce, settings, listeners[0], host, sign_up)
        _serve(settings, listeners, announce, reload=reload)


def _serve(
    settings: Settings, listeners: Sequence[socket], announce: Callable[[], None], *, reload: bool
) -> None:
    # Imported here, because the other commands need no web server.
    from app.server.deadlines import ClientLimits  # noqa: PLC0415
    from app.server.serving import ServerOptions, serve, serve_reloading  # noqa: PLC0415

    options = ServerOptions(
        limits=ClientLimits(
            head_size=settings.max_header_size,
            head=settings.header_timeout,
            body=settings.body_timeout,
            body_rate=settings.body_rate,
            reader=settings.send_timeout,
            idle=settings.keepalive_timeout,
        ),
        max_connections=settings.max_connections,
        max_connections_per_peer=settings.max_connections_per_peer,
        trusted_proxies=settings.trusted_proxies,
        sendfile=settings.sendfile,
        access_log=settings.access_log,
        log_format=settings.log_format,
        heartbeat=settings.heartbeat,
        shutdown_delay=settings.shutdown_delay,
        shutdown_timeout=settings.shutdown_timeout,
    )
    if reload:
        announce()
        serve_reloading(options, listeners)
    else:
        serve(options, listeners, announce)


def _listeners(
    settings: Settings, host: str | None, port: int | None, uds: str | None, stack: ExitStack
) -> tuple[list[socket], str | None]:
    """Return the sockets (of systemd, options or settings) and the host if any. Raises ConfigurationError."""
    if given := activated_listeners():
        if (host, port, uds) != (None, None, None):
            raise ConfigurationError("systemd opened the sockets. Omit --host, --port and --uds.")
        for listener in given:
            if listener.family != AF_UNIX:
                _check_host(listener.getsockname()[0], settings)
        return given, None
    if uds is not None:
        return [stack.enter_context(unix_listener(uds))], None
    host = host if host is not None else settings.host
    _check_host(host, settings)
    return listen(host, port if port is not None else settings.port), host


def _check_host(host: str, settings: Settings) -> None:
    if settings.access == "loopback" and not is_loopback_host(host):
        raise ConfigurationError(
            f"Everyone who can reach {host} could upload and delete. Set SEEKABLE_ACCESS=accounts to require "
            "an account, or open to allow that, or listen on 127.0.0.1."
        )


def _first_sign_up(settings: Settings, base: str) -> str | None:
    """Store the address for `account invite`; return the first account's sign-up path; None if it exists."""
    if settings.access != "accounts":
        return None
    with open_accounts(settings, create=True) as store:
        if store.announced() != base:
            with suppress(OutOfSpace):  # the server must start, so that files can be deleted
                store.announce(base)
        if settings.sign_up == "closed" or store.count():
            return None
        if settings.sign_up == "open":
            return "/sign-up"
        invite, secret = new_invite(timedelta(days=1))
        store.invites.add(invite)
        return f"/sign-up?invite={secret}"


def _announce(settings: Settings, listener: socket, host: str | None, sign_up: str | None) -> None:
    user = " -u EMAIL" if settings.access == "accounts" else ""
    lines = [f"Seekable serves {logs.escaped(settings.location)}"]
    base = _base(settings, listener, host)
    if listener.family == AF_UNIX and settings.base_url is None:
        path = listener_url(listener).removeprefix("unix:")
        is_abstract = path.startswith("@")
        option = "--abstract-unix-socket" if is_abstract else "--unix-socket"
        path = shlex.quote(path.removeprefix("@"))
        curl = f"curl {option} {logs.escaped(path)}{user}"
        lines += [
            f"  socket  {logs.escaped(path)}",
            f"  upload  {curl} -F file=@film.mp4 {base}/file/upload",
            f"  play    {curl} {base}/files/film.mp4 | vlc -",
        ]
    else:
        lines += [
            f"  docs    {base}/docs",
            f"  upload  curl{user} -F file=@film.mp4 {base}/file/upload",
            f"  play    vlc {base}/files/film.mp4",
        ]
    if settings.storage == "filesystem" and ignores_case(settings.files_dir):
        lines += [f"  note    This folder {IGNORES_CASE}"]
    if is_read_only(settings):
        lines = [line for line in lines if not line.startswith("  upload")]
    if sign_up:
        lines += [f"  sign up {base}{sign_up}", "          The first account is the administrator's."]
    if settings.log_format == "json":
        for line in lines:
            log.info("%s", line.strip())
    else:
        click.echo("\n".join(lines))


def _base(settings: Settings, listener: socket, host: str | None) -> str:
    """Return the URL of the server for a client on this machine."""
    if settings.base_url is not None:
        return settings.base_url
    if listener.family == AF_UNIX:
        return "http://localhost"
    address, port = listener.getsockname()[:2]
    return f"http://{reachable(address if host is None else host, port)}"
