"""Requests that change the protocol of their connection, as tables."""

import pytest

from app.http.request_head import Upgrade, head_without_upgrade, upgrade_of

WEBSOCKET = ((b"connection", b"Upgrade"), (b"upgrade", b"websocket"))


@pytest.mark.parametrize(
    ("method", "version", "headers", "outcome"),
    [
        (b"GET", "1.1", WEBSOCKET, Upgrade.WEBSOCKET),
        (b"GET", "1.1", [(b"connection", b"keep-alive, uPgRaDe"), (b"upgrade", b" WebSocket ")],
         Upgrade.WEBSOCKET),
        (b"GET", "1.1", [(b"connection", b"upgrade"), (b"upgrade", b"websocket"), (b"connection", b"close")],
         Upgrade.WEBSOCKET),
        (b"GET", "1.1", [*WEBSOCKET, (b"content-length", b"0")], Upgrade.WEBSOCKET),
        (b"GET", "1.1", [*WEBSOCKET, (b"content-length", b"10")], Upgrade.IGNORED),
        (b"GET", "1.1", [*WEBSOCKET, (b"transfer-encoding", b"chunked")], Upgrade.IGNORED),
        (b"GET", "1.0", WEBSOCKET, Upgrade.IGNORED),
        (b"POST", "1.1", WEBSOCKET, Upgrade.IGNORED),
        (b"PUT", "1.1", [*WEBSOCKET, (b"content-length", b"0")], Upgrade.IGNORED),
        (b"GET", "1.1", [(b"connection", b"Upgrade"), (b"upgrade", b"h2c, websocket")], Upgrade.IGNORED),
        (b"GET", "1.1", [(b"connection", b"Upgrade"), (b"upgrade", b"websocket/13")], Upgrade.IGNORED),
        (b"GET", "1.1", [*WEBSOCKET, (b"upgrade", b"h2c")], Upgrade.IGNORED),
        (b"GET", "1.1", [(b"upgrade", b"websocket")], Upgrade.IGNORED),
        (b"GET", "1.1", [(b"connection", b"upgraded"), (b"upgrade", b"websocket")], Upgrade.IGNORED),
        (b"GET", "1.1", [(b"connection", b"Upgrade"), (b"upgrade", b"")], Upgrade.IGNORED),
        (b"GET", "1.1", [(b"connection", b"Upgrade, HTTP2-Settings"), (b"upgrade", b"h2c")], Upgrade.IGNORED),
        (b"OPTIONS", "1.1", [(b"connection", b"Upgrade"), (b"upgrade", b"TLS/1.0")], Upgrade.IGNORED),
        (b"CONNECT", "1.1", [], Upgrade.REFUSED),
        (b"CONNECT", "1.0", [], Upgrade.REFUSED),
        (b"CONNECT", "1.1", WEBSOCKET, Upgrade.REFUSED),
    ],
)  # fmt: skip
def test_upgrade_of_accepts_only_websocket_handshakes(
    method: bytes, version: str, headers: list[tuple[bytes, bytes]], outcome: Upgrade
) -> None:
    assert upgrade_of(method, version, headers) is outcome


@pytest.mark.parametrize(
    ("headers", "lines"),
    [
        ([(b"host", b"a"), (b"upgrade", b"h2c"), (b"upgrade", b"x")], [b"host: a"]),
        ([(b"connection", b"Upgrade, HTTP2-Settings"), (b"http2-settings", b"AAM")], [b"connection: "]),
        ([(b"connection", b"close,\tUPGRADE ,http2-SETTINGS")], [b"connection: close"]),
        ([(b"connection", b"upgrade"), (b"connection", b"Keep-Alive, upgrade, TE")],
         [b"connection: ", b"connection: Keep-Alive, TE"]),
        ([(b"x", b"upgrade"), (b"content-length", b"3"), (b"x", b"")],
         [b"x: upgrade", b"content-length: 3", b"x: "]),
        ([], []),
    ],
)  # fmt: skip
def test_head_without_upgrade_keeps_other_headers(
    headers: list[tuple[bytes, bytes]], lines: list[bytes]
) -> None:
    head = head_without_upgrade(b"PUT", b"/a?b", "1.1", headers)
    assert head == b"\r\n".join([b"PUT /a?b HTTP/1.1", *lines, b"", b""])
