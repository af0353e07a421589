"""The rules of the host guard: peers, hosts and origins, as tables."""

from typing import Any

import pytest
from starlette.datastructures import Headers

from app.resources.middleware.host_guard import HostGuard, RequestRefused, names_of_machine


def check(rules: HostGuard, method: str = "GET", peer: str | None = "127.0.0.1", **fields: Any) -> int | None:
    """Return the status of the refusal, or None if the request is accepted."""
    local, version = fields.pop("local", "127.0.0.1"), fields.pop("version", "1.1")
    websocket = fields.pop("websocket", False)
    headers = {"host": "localhost", **{name.replace("_", "-"): value for name, value in fields.items()}}
    raw = [
        (name.encode(), line.encode("latin-1"))
        for name, value in headers.items()
        if value is not None
        for line in (value if isinstance(value, list) else [value])
    ]
    try:
        rules.check(method, Headers(raw=raw), peer=peer, local=local, version=version, websocket=websocket)
    except RequestRefused as refused:
        return refused.status
    return None


def rules(
    *,
    any_peer: bool = False,
    base_url: str | None = None,
    hosts: tuple[str, ...] = (),
    origins: tuple[str, ...] = (),
) -> HostGuard:
    return HostGuard.of(any_peer=any_peer, base_url=base_url, hosts=hosts, origins=origins)


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "POST", "PUT", "DELETE", "PATCH"])
@pytest.mark.parametrize(
    ("peer", "status"),
    [
        ("127.0.0.1", None),
        ("127.255.255.254", None),
        ("::1", None),
        ("0:0:0:0:0:0:0:1", None),
        ("::ffff:127.0.0.1", None),
        ("::ffff:7f00:1", None),
        ("192.168.1.2", 403),
        ("::ffff:192.168.1.2", 403),
        ("128.0.0.1", 403),
        ("0.0.0.0", 403),
        ("::", 403),
        ("::2", 403),
        ("fe80::1", 403),
        ("169.254.1.1", 403),
        ("8.8.8.8", 403),
        ("localhost", 403),
        ("127.0.0.1.evil.example", 403),
        ("", 403),
        (None, 403),
    ],
)
def test_peer_is_refused_unless_loopback_or_any_peer_is_allowed(
    method: str, peer: str | None, status: int | None
) -> None:
    assert check(rules(), method, peer) == status
    assert check(rules(any_peer=True), method, peer) is None


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("nas", ("nas", "nas.local")),
        ("NAS.lan", ("nas.lan", "nas", "nas.local")),
        ("mac.local", ("mac.local", "mac")),
        ("a.b.example.org", ("a.b.example.org", "a", "a.local")),
        ("no host!", ()),
        ("", ()),
    ],
)
def test_names_of_machine_include_short_and_local_names(name: str, names: tuple[str, ...]) -> None:
    assert names_of_machine(name) == names


OURS = {
    "base_url": "https://Media.Example.org:8443/seekable",
    "hosts": (
        "nas.local",
        "*.example.net",
        "192.168.1.5",
        "[fd00::5]",
        "with-port.test:9000",
        "*.ported.test:9000",
    ),
}


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", None),
        ("LocalHost:8000", None),
        ("localhost.", None),
        ("127.0.0.1", None),
        ("127.0.0.1:8000", None),
        ("[::1]", None),
        ("[::1]:8000", None),
        ("media.example.org", None),
        ("media.example.org:8443", None),
        ("MEDIA.EXAMPLE.ORG", None),
        ("nas.local", None),
        ("nas.local:8000", None),
        ("a.example.net", None),
        ("a.b.example.net:8000", None),
        ("192.168.1.5:8000", None),
        ("[fd00::5]:8000", None),
        ("with-port.test", None),
        ("a.ported.test:8000", None),
        ("evil.example", 421),
        ("example.net", 421),
        ("aexample.net", 421),
        ("example.org", 421),
        ("a.media.example.org", 421),
        ("localhost.evil.example", 421),
        ("evil.example.localhost", 421),
        ("127.0.0.1.evil.example", 421),
        ("127.0.0.2", 421),
        ("192.168.1.50", 421),
        ("[::2]", 421),
        ("[fd00::50]", 421),
        ("example.net.evil.example", 421),
    ],
)
@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_host_is_refused_unless_allowed(method: str, host: str, status: int | None) -> None:
    assert check(rules(**OURS), method, host=host) == status  # type: ignore[arg-type]
    # A request from any peer still needs an allowed Host.
    assert check(rules(any_peer=True, **OURS), method, host=host) == status  # type: ignore[arg-type]
    assert check(rules(hosts=("*",)), method, host=host) is None


@pytest.mark.parametrize(
    ("local", "host", "status"),
    [
        ("192.168.1.9", "192.168.1.9:8000", None),
        ("192.168.1.9", "192.168.1.8:8000", 421),
        ("fd00::9", "[fd00::9]:8000", None),
        ("fd00::9", "[fd00::8]:8000", 421),
        (None, "192.168.1.9", 421),
        (None, "localhost", None),
    ],
)
def test_host_may_be_the_address_of_the_connection(local: str | None, host: str, status: int | None) -> None:
    assert check(rules(any_peer=True), host=host, local=local) == status


def test_request_has_exactly_one_host() -> None:
    assert check(rules(), host=None) == 400
    assert check(rules(), host=["localhost", "localhost"]) == 400
    assert check(rules(), host=["localhost", "evil.example"]) == 400
    assert check(rules(), host=None, version="1.0") is None
    assert check(rules(), host=["localhost", "localhost"], version="1.0") == 400


SITES = [
    # Sec-Fetch-Site, Origin, whether a write is accepted
    (None, None, True),  # curl, VLC
    ("none", None, True),  # typed by the user
    ("same-origin", None, True),
    ("same-origin", "http://localhost:8000", True),
    (None, "http://localhost:8000", True),
    (None, "HTTP://LOCALHOST:8000", True),
    (None, "https://localhost:8000", True),  # a proxy may have terminated TLS
    ("cross-site", None, False),
    ("cross-site", "http://localhost:8000", False),
    ("same-site", None, False),
    ("same-site", "http://localhost:9000", False),
    ("nonsense", None, False),
    ("cross-site", "https://evil.example", False),
    (None, "https://evil.example", False),
    (None, "http://localhost:9000", False),  # another program on this machine
    (None, "http://localhost", False),
    (None, "http://localhost:8000.evil.example", False),
    (None, "http://evil.example/localhost:8000", False),
    (None, "http://localhost:8000@evil.example", False),
    (None, "null", False),
    ("cross-site", "null", False),
    ("same-origin", "null", True),  # a sandboxed page of ours, according to the browser
    (None, "", False),
    (None, "file://", False),
    (None, "http://[::1", False),
    (None, "http://[evil]", False),
    (None, "http://\u00e9", False),
]


@pytest.mark.parametrize(("site", "origin", "allowed"), SITES)
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_write_is_refused_from_other_site(
    method: str, site: str | None, origin: str | None, allowed: bool
) -> None:
    fields = {"host": "localhost:8000", "sec_fetch_site": site, "origin": origin}
    expected = None if allowed else 403
    assert check(rules(), method, **fields) == expected
    assert check(rules(origins=("https://app.example.org",)), method, **fields) == expected
    for safe in ("GET", "HEAD", "OPTIONS"):
        assert check(rules(), safe, **fields) is None


@pytest.mark.parametrize("site", [None, "cross-site", "same-site", "same-origin"])
@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("https://app.example.org", True),
        ("HTTPS://App.Example.org", True),
        ("http://app.example.org", False),
        ("https://app.example.org:444", False),
        ("https://app.example.org.evil.example", False),
        ("https://evil.example", False),
    ],
)
def test_write_is_accepted_from_cors_origin(site: str | None, origin: str, allowed: bool) -> None:
    own_rules = rules(origins=("https://App.example.org/",))
    expected = None if allowed or site == "same-origin" else 403
    assert check(own_rules, "PUT", sec_fetch_site=site, origin=origin) == expected
    assert check(rules(origins=("*",)), "PUT", sec_fetch_site=site, origin=origin) is None


def test_origin_is_refused_when_request_has_no_host() -> None:
    assert check(rules(), "PUT", host=None, version="1.0", origin="https://evil.example") == 403
    assert check(rules(), "PUT", host=None, version="1.0") is None


def test_origin_of_base_url_is_same_origin() -> None:
    """A proxy that does not forward the Host header sends its own."""
    own_rules = rules(base_url="https://media.example.org/seekable")
    assert check(own_rules, "PUT", host="127.0.0.1:8000", origin="https://media.example.org") is None
    assert check(own_rules, "PUT", host="127.0.0.1:8000", origin="https://evil.example") == 403


@pytest.mark.parametrize("site", [None, "cross-site", "same-origin"])
@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        (None, True),
        ("http://localhost:8000", True),
        ("HTTPS://LocalHost:8000", True),  # the scheme differs behind a proxy
        ("https://app.example.org", True),
        ("https://media.example.org", True),  # of the base URL
        ("http://localhost", False),
        ("http://localhost:8001", False),
        ("http://localhost:8000.evil.example", False),
        ("https://evil.example", False),
        ("http://app.example.org", False),
        ("localhost:8000", False),
        ("null", False),
        ("", False),
        (["http://localhost:8000", "https://evil.example"], False),
    ],
)
def test_websocket_is_refused_from_other_origin(
    site: str | None, origin: str | list[str] | None, allowed: bool
) -> None:
    """Browsers open WebSockets across origins without a preflight, so a WebSocket's GET is checked like a
    write."""
    own_rules = rules(base_url="https://media.example.org", origins=("https://app.example.org",))
    fields = {"host": "localhost:8000", "origin": origin, "sec_fetch_site": site}
    assert check(own_rules, websocket=True, **fields) == (None if allowed else 403)
    assert check(own_rules, websocket=False, **fields) is None
    assert check(rules(origins=("*",)), websocket=True, **fields) is None
    assert check(own_rules, websocket=True, peer="192.168.1.2", **fields) == 403
    assert check(own_rules, websocket=True, **{**fields, "host": "evil.example"}) == 421
