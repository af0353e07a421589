"""`seekable serve`: opens the listening sockets, prepares the database, and runs the server."""

import gc
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from datetime import timedelta
from functools import partial
from socket import AF_UNIX, socket

import click

from app import logs
from app.accounts.models import new_invite
from app.cli.banner import Banner
from app.cli.findings import IGNORES_CASE
from app.cli.options import check_has_folder, folder_argument
from app.database import open_accounts, prepare_database
from app.database.doctor_checks import ignores_case
from app.database.open_library import is_read_only
from app.http.addresses import is_loopback_host
from app.server.listen import (
    activated_listeners,
    authority,
    listen,
    listener_url,
    mdns_name,
    network_hosts,
    reachable,
)
from app.server.unix_socket import unix_listener
from app.settings import ConfigurationError, Settings, load, override
from app.storage.errors import OutOfSpace

_OPEN_TO_ALL = (
    "Everyone who can reach this server can upload and delete. To require an account: --access accounts"
)
_UNREACHABLE = (
    "--qr: Other devices cannot reach this server. To listen on the network, add --host 0.0.0.0 and "
    "--access accounts (or open)."
)


@click.command("serve")
@folder_argument
@click.option(
    *("-p", "--port"),
    type=click.IntRange(0, 65535),
    metavar="NUMBER",
    help="Port; 0 takes a free one (SEEKABLE_PORT, 8000).",
)
@click.option("--host", metavar="ADDRESS", help="Address to listen on (SEEKABLE_HOST, 127.0.0.1).")
@click.option(
    "--access",
    type=click.Choice(["loopback", "open", "accounts"]),
    metavar="WHO",
    help="Who may connect: loopback (this machine), open (everyone), or accounts (everyone with an account) "
    "(SEEKABLE_ACCESS, loopback).",
)
@click.option("--read-only", is_flag=True, help="Refuse uploads and all other changes.")
@click.option("--open", "open_page", is_flag=True, help="Open the page in a browser.")
@click.option("--qr", is_flag=True, help="Print a QR code, with which a phone opens the page.")
@click.option("--uds", metavar="PATH", help="Unix socket to listen on, instead of an address.")
@click.option("--reload", is_flag=True, help="Restart when the code changes, for development.")
def serve_command(
    *,
    folder: str | None,
    host: str | None,
    port: int | None,
    access: str | None,
    read_only: bool,
    open_page: bool,
    qr: bool,
    uds: str | None,
    reload: bool,
) -> None:
    """Serve the films in FOLDER, and in the folders in it.

    Films stay where they are. The server keeps its database in FOLDER/.seekable. Without FOLDER, it serves
    SEEKABLE_FILES_DIR, which is ./files by default, or a MongoDB (SEEKABLE_STORAGE).

    Options take precedence over settings. The server uses the sockets that systemd opened (a .socket unit)
    instead of an address.
    """
    has_address = (host, port) != (None, None)
    if uds is not None and (has_address or open_page or qr):
        raise click.UsageError("--uds cannot be combined with --host, --port, --open or --qr.")
    override(files_dir=folder, host=host, port=port, access=access, read_only=read_only or None)
    with ExitStack() as stack:
        gc.disable()  # until the server has started: nearly all objects that imports create stay
        stack.callback(gc.enable)
        settings = load(lambda settings: logs.configure(settings.log_format))
        check_has_folder(settings, folder)
        listeners, listens_on = _listeners(settings, uds, stack, has_address=has_address)
        network = _network(settings, listeners)
        if qr and not network:
            raise ConfigurationError(_UNREACHABLE)  # all of these before the database is touched
        prepare_database(settings)  # its errors become messages here; in the server, tracebacks
        banner = _banner(settings, listeners[0], _base(settings, listeners[0], listens_on), network)
        page = (banner.sign_up or f"{banner.base}/") if open_page and banner.socket is None else None
        phone = f"{network[0]}/" if qr else None
        announce = partial(banner.show, as_log=settings.log_format == "json", page=page, phone=phone)
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
        fast_path=settings.fast_path,
        access_log=settings.access_log,
        log_format=settings.log_format,
        heartbeat=settings.heartbeat,
        shutdown_delay=settings.shutdown_delay,
        shutdown_timeout=settings.shutdown_timeout,
    )
    if reload:
        gc.enable()
        announce()
        serve_reloading(options, listeners)
    else:
        serve(options, listeners, announce)


def _listeners(
    settings: Settings, uds: str | None, stack: ExitStack, *, has_address: bool
) -> tuple[list[socket], str | None]:
    """Return the sockets (of systemd, an option or the settings) and the host if any.

    `has_address` tells whether an option names one. Raises ConfigurationError.
    """
    if given := activated_listeners():
        if has_address or uds is not None:
            raise ConfigurationError("systemd opened the sockets. Omit --host, --port and --uds.")
        for listener in given:
            if listener.family != AF_UNIX:
                _check_host(listener.getsockname()[0], settings)
        return given, None
    if uds is not None:
        return [stack.enter_context(unix_listener(uds))], None
    _check_host(settings.host, settings)
    listeners = listen(settings.host, settings.port)
    for listener in listeners:
        stack.callback(listener.close)
    return listeners, settings.host


def _check_host(host: str, settings: Settings) -> None:
    if settings.access == "loopback" and not is_loopback_host(host):
        could = "read" if settings.read_only else "read, upload and delete"
        raise ConfigurationError(
            f"Everyone who can reach {host} could {could}. To require an account, add --access accounts, or "
            "set SEEKABLE_ACCESS=accounts; to allow that, choose open. Or listen on 127.0.0.1."
        )


def _first_sign_up(settings: Settings, base: str) -> tuple[str | None, str | None]:
    """Store the address for `account invite`. Return how to log in, and where the first account signs up if
    there is none yet. Both are None without accounts."""
    if settings.access != "accounts":
        return None, None
    with open_accounts(settings, create=True) as store:
        if store.announced() != base:
            with suppress(OutOfSpace):  # the server must start, so that files can be deleted
                store.announce(base)
        accounts = store.list(after="", limit=2)
        login = accounts[0].email if len(accounts) == 1 else "EMAIL"
        if settings.sign_up == "closed" or accounts:
            return login, None
        if settings.sign_up == "open":
            return login, f"{base}/sign-up"
        invite, secret = new_invite(timedelta(days=1))
        store.invites.add(invite)
        return login, f"{base}/sign-up?invite={secret}"


def _network(settings: Settings, listeners: Sequence[socket]) -> list[str]:
    """Return the URLs of the server for other machines, the most useful first."""
    if settings.base_url is not None:
        return [settings.base_url]
    if settings.access == "loopback" or not (hosts := network_hosts(listeners)):
        return []
    name = mdns_name(hosts)
    port = listeners[0].getsockname()[1]
    return [f"http://{authority(host, port)}" for host in [*hosts, *([name] if name else [])]]


def _banner(settings: Settings, listener: socket, base: str, network: Sequence[str]) -> Banner:
    on_socket = listener.family == AF_UNIX and settings.base_url is None
    login, sign_up = _first_sign_up(settings, network[0] if network else base)
    read_only = is_read_only(settings)
    notes = []
    if settings.access == "open" and network and not read_only:
        notes.append(_OPEN_TO_ALL)
    if settings.storage == "filesystem" and ignores_case(settings.files_dir):
        notes.append(f"This folder {IGNORES_CASE}")
    return Banner(
        location=settings.location,
        base=base,
        network=tuple(url for url in network if url != base),
        socket=listener_url(listener).removeprefix("unix:") if on_socket else None,
        login=login,
        sign_up=sign_up,
        uploads=not read_only,
        plays="/playlist.m3u?recursive=true" if read_only or _has_files(settings) else "/files/film.mp4",
        notes=tuple(notes),
    )


def _has_files(settings: Settings) -> bool:
    """Return whether other programs have put something into the folder."""
    if settings.storage == "gridfs":
        return False
    with os.scandir(settings.files_dir) as entries:
        return any(not entry.name.startswith(".") for entry in entries)


def _base(settings: Settings, listener: socket, host: str | None) -> str:
    """Return the URL of the server for a client on this machine."""
    if settings.base_url is not None:
        return settings.base_url
    if listener.family == AF_UNIX:
        return "http://localhost"
    address, port = listener.getsockname()[:2]
    return f"http://{reachable(address if host is None else host, port)}"
