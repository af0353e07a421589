"""Client and scheme from a trusted proxy's fields; a client cannot forge them through the proxy."""

import time

import pytest

from app.http.addresses import address_matcher
from app.server.forwarded import forwarded_client

TRUSTS = address_matcher(["127.0.0.1", "::1", "10.0.0.0/8", "2001:db8:1::/48"])
CLIENT, PROXY = "203.0.113.9", "10.0.0.1"

CLIENTS: list[tuple[tuple[str, ...], tuple[str, int] | None]] = [
    ((), None),
    # X-Forwarded-For: the last address that is not a trusted proxy
    ((f"x-forwarded-for: {CLIENT}",), (CLIENT, 0)),
    ((f"x-forwarded-for: {CLIENT}:4711",), (CLIENT, 4711)),
    (("x-forwarded-for: [2001:db8::1]:4711",), ("2001:db8::1", 4711)),
    (("x-forwarded-for: 2001:db8::1",), ("2001:db8::1", 0)),
    ((f"x-forwarded-for: {CLIENT}, {PROXY}",), (CLIENT, 0)),
    ((f"x-forwarded-for: 127.0.0.1, {CLIENT}",), (CLIENT, 0)),
    (("x-forwarded-for: 127.0.0.1", f"x-forwarded-for: {CLIENT}"), (CLIENT, 0)),
    ((f"x-forwarded-for: {PROXY}, 127.0.0.1",), (PROXY, 0)),
    ((f"x-forwarded-for: {CLIENT}, ::ffff:10.0.0.1",), (CLIENT, 0)),
    ((f"x-forwarded-for: {CLIENT},, ",), (CLIENT, 0)),
    (("x-forwarded-for: ",), None),
    (("x-forwarded-for: unknown, 127.0.0.1",), ("unknown", 0)),
    # Forwarded (RFC 7239 §4)
    ((f"forwarded: for={CLIENT}",), (CLIENT, 0)),
    ((f"forwarded: For={CLIENT}; Proto=https;by=10.0.0.1",), (CLIENT, 0)),
    ((f'forwarded: for="{CLIENT}:4711"',), (CLIENT, 4711)),
    ((f"forwarded: for={CLIENT}:4711",), (CLIENT, 4711)),
    (('forwarded: for="[2001:db8::1]:4711"',), ("2001:db8::1", 4711)),
    (('forwarded: for="[2001:db8::1]"',), ("2001:db8::1", 0)),
    (('forwarded: for="[2001:db8::1]:_port"',), ("2001:db8::1", 0)),
    ((f"forwarded: for={CLIENT}, for={PROXY}",), (CLIENT, 0)),
    ((f"forwarded: for={CLIENT}", f"forwarded: for={PROXY}"), (CLIENT, 0)),
    ((f"forwarded: for=127.0.0.1, for={CLIENT};proto=https, for={PROXY}",), (CLIENT, 0)),
    ((f"forwarded: ,, for={CLIENT} ,",), (CLIENT, 0)),
    (("forwarded: for=unknown",), ("unknown", 0)),
    (("forwarded: for=_hidden",), ("_hidden", 0)),
    (("forwarded: for=127.0.0.1",), ("127.0.0.1", 0)),
    (("forwarded: proto=https",), None),
    # An unparsable field yields an unknown client, never a trusted address.
    *(((f"forwarded: {bad}",), ("unknown", 0)) for bad in ('for="127.0.0.1', "127.0.0.1", "for=a b", "for=")),
    ((f'forwarded: for="127.0.0.1, for={CLIENT};by="x"',), ("unknown", 0)),
    (("forwarded: for=127.0.0.1;for=127.0.0.1",), ("unknown", 0)),
    # A proxy that writes X-Forwarded-For passes on what a client wrote into Forwarded.
    ((f"x-forwarded-for: {CLIENT}", "forwarded: for=127.0.0.1"), (CLIENT, 0)),
    (("forwarded: for=127.0.0.1", f"x-forwarded-for: {CLIENT}"), (CLIENT, 0)),
    # A proxy that writes Forwarded passes on what a client wrote into X-Forwarded-For.
    (("x-forwarded-for: 127.0.0.1", f"forwarded: for={CLIENT}"), (CLIENT, 0)),
    (("x-forwarded-for: 127.0.0.2", f"forwarded: for={CLIENT}"), (CLIENT, 0)),
    ((f"x-forwarded-for: {PROXY}", f"forwarded: for={CLIENT}"), (CLIENT, 0)),
    (("x-forwarded-for: 127.0.0.1", "forwarded: for=_hidden"), ("_hidden", 0)),
    (("x-forwarded-for: 127.0.0.1", 'forwarded: for="'), ("unknown", 0)),
    (("x-forwarded-for: 127.0.0.1", "forwarded: proto=https"), ("127.0.0.1", 0)),
    (("x-forwarded-for: 127.0.0.1", f"forwarded: for={PROXY}"), ("127.0.0.1", 0)),
    ((f"x-forwarded-for: {CLIENT}", 'forwarded: for="'), (CLIENT, 0)),
    ((f"x-forwarded-host: {CLIENT}", f"x-real-ip: {CLIENT}", f"via: {CLIENT}"), None),
]
SCHEMES: list[tuple[tuple[str, ...], str | None]] = [
    ((), None),
    (("x-forwarded-proto: https",), "https"),
    (("x-forwarded-proto: HTTPS",), "https"),
    (("x-forwarded-proto: https, http",), "https"),
    (("x-forwarded-proto: http,https",), "http"),
    (("x-forwarded-proto: https", "x-forwarded-proto: http"), "https"),
    (("x-forwarded-proto: gopher, https",), None),
    (("x-forwarded-proto: ",), None),
    (("forwarded: proto=https",), "https"),
    ((f'forwarded: for={CLIENT};proto="https"',), "https"),
    # The client's own element decides: an earlier one may be forged, a later one describes a hop behind it.
    ((f"forwarded: for=127.0.0.1;proto=http, for={CLIENT};proto=https, for={PROXY};proto=http",), "https"),
    ((f"forwarded: for={CLIENT};proto=http, for={CLIENT};proto=https",), "https"),
    (("forwarded: proto=gopher",), None),
    (("x-forwarded-proto: http", f"forwarded: for={CLIENT};proto=https"), "http"),
    ((f"x-forwarded-for: {CLIENT}", "forwarded: proto=https"), "https"),
]


def forwarded_of(lines: tuple[str, ...]) -> tuple[tuple[str, int] | None, str | None]:
    headers = [
        (name.encode(), value.strip().encode()) for name, _, value in (line.partition(":") for line in lines)
    ]
    return forwarded_client(headers, TRUSTS)


@pytest.mark.parametrize(("lines", "client"), CLIENTS, ids=lambda value: str(value)[:60])
def test_client_is_the_last_address_that_is_not_a_trusted_proxy(
    lines: tuple[str, ...], client: tuple[str, int] | None
) -> None:
    assert forwarded_of(lines)[0] == client


@pytest.mark.parametrize(("lines", "scheme"), SCHEMES, ids=lambda value: str(value)[:60])
def test_scheme_is_that_of_the_client_element(lines: tuple[str, ...], scheme: str | None) -> None:
    assert forwarded_of(lines)[1] == scheme


@pytest.mark.parametrize("value", ["for=" + '"' * 30_000, "a=b;" * 15_000, ";" * 60_000, 'a="\\"' * 12_000])
def test_forwarded_parses_hostile_values_in_linear_time(value: str) -> None:
    began = time.process_time()
    forwarded_of((f"forwarded: {value}",))
    assert time.process_time() - began < 0.5
