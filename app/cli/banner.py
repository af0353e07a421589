"""The lines that `seekable serve` prints: the addresses of the page, and commands to copy into a shell."""

import io
import logging
import os
import shlex
import sys
import webbrowser
from collections.abc import Iterator
from dataclasses import dataclass
from threading import Thread

import click

from app import logs

log = logging.getLogger(__name__)

_WIDTH = 9
"""Columns of the labels."""

_QR_COLOURS = "\x1b[97;40m", "\x1b[0m"
"""White on black, and the end of it: in the colours of a light terminal, the code would be inverted."""

_DISPLAYS = ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
"""Variables that name a browser outside of this terminal."""


@dataclass(frozen=True, kw_only=True)
class Banner:
    """The start of a server, for the people who use it."""

    location: str
    """The folder, or the MongoDB URL without a password."""
    base: str
    """The URL of the server for a client on this machine."""
    network: tuple[str, ...] = ()
    """Further URLs, for other machines."""
    socket: str | None = None
    """The path of its Unix socket, if clients reach it only there; it begins with @ if it is abstract."""
    login: str | None = None
    """The address to log in with, or a word in its place. None without accounts."""
    sign_up: str | None = None
    """The URL at which the first account signs up; None if there is one."""
    uploads: bool = True
    plays: str = "/files/film.mp4"
    """The path of a file or of a playlist."""
    notes: tuple[str, ...] = ()

    def show(self, *, as_log: bool, page: str | None, phone: str | None) -> None:
        """Print the lines, open a page in a browser, and print the QR code of an address for phones."""
        if as_log:
            for line in self.lines():
                log.info("%s", line.strip())
        else:
            click.echo("\n".join(self.lines()))
            if phone is not None and sys.stdout.isatty():
                click.echo(f"{qr_code(phone)}\n{logs.escaped(phone)}")
        if page is not None:
            # In a thread, because some browsers block until they are closed.
            Thread(target=_open_in_browser, args=(page,), daemon=True).start()

    def lines(self) -> Iterator[str]:
        """Yield the lines. They cannot control a terminal, and their commands are quoted for a shell."""
        yield f"Seekable serves {logs.escaped(self.location)}"
        for label, text in self._parts():
            yield f"  {label:{_WIDTH}}{logs.escaped(text)}"

    def _parts(self) -> Iterator[tuple[str, str]]:
        if self.socket is not None:
            yield "socket", shlex.quote(self.socket.removeprefix("@"))
        else:
            yield "page", f"{self.base}/"
            yield from (("network", f"{url}/") for url in self.network)
            yield "help", f"{self.base}/help/"
            yield "docs", f"{self.base}/docs"
        if self.uploads:
            yield "upload", f"{self._curl()} -F file=@film.mp4 {shlex.quote(f'{self.base}/file/upload')}"
        yield "play", self._player()
        yield from (("note", note) for note in self.notes)
        if self.sign_up is not None:
            yield "sign up", self.sign_up
            yield "", "The first account is the administrator's."

    def _player(self) -> str:
        url = shlex.quote(f"{self.base}{self.plays}")
        return f"vlc {url}" if self.socket is None else f"{self._curl()} {url} | vlc -"

    def _curl(self) -> str:
        words = ["curl"]
        if self.socket is not None:
            option = "--abstract-unix-socket" if self.socket.startswith("@") else "--unix-socket"
            words += [option, self.socket.removeprefix("@")]
        if self.login is not None:
            words += ["-u", self.login]
        return shlex.join(words)


def qr_code(url: str) -> str:
    """Return a QR code for a terminal with Unicode and colours: lines of half blocks."""
    import segno  # noqa: PLC0415 - the completion of shells, which also imports this module, has to be fast

    drawn = io.StringIO()
    segno.make(url, micro=False).terminal(drawn, compact=True, border=2)
    light, reset = _QR_COLOURS
    return "\n".join(f"{light}{line}{reset}" for line in drawn.getvalue().splitlines())


def _open_in_browser(page: str) -> None:
    # Without a display, the standard library would start a browser in this terminal.
    has_display = sys.platform == "darwin" or any(map(os.environ.get, _DISPLAYS))
    if not (has_display and webbrowser.open(page)):
        log.info("No browser was found. Open the page yourself.")
