"""Who seems to guess passwords, and has to wait."""

import ipaddress
from collections import OrderedDict
from collections.abc import Hashable

from app.accounts.errors import TooManyAttempts
from app.accounts.throttle import MAX_KEYS, Throttle

WINDOW_S = 15 * 60
PER_PAIR = 10
"""Wrong passwords for one account from one address, within the window."""
PER_ADDRESS = 50
PER_ACCOUNT = 100
"""From all addresses together, but those from which somebody has logged in to it: whoever has many addresses
can keep people out of their account at most where they have never been."""

SIGN_UP_WINDOW_S = 60 * 60
SIGN_UPS = 20
"""Accounts that one address may try to make within that."""


class Guesses:
    """Counts before a password is looked at, so that a thousand at once are not looked at all. Raises
    TooManyAttempts."""

    def __init__(self) -> None:
        self._pairs = Throttle(PER_PAIR, WINDOW_S)
        self._addresses = Throttle(PER_ADDRESS, WINDOW_S)
        self._accounts = Throttle(PER_ACCOUNT, WINDOW_S)
        self._sign_ups = Throttle(SIGN_UPS, SIGN_UP_WINDOW_S)
        self._right: OrderedDict[Hashable, None] = OrderedDict()

    def guess(self, email: str, address: str) -> None:
        """Somebody tries a password for this account. What one bucket refuses is in none of them: who waits
        behind one does not fill another, nor makes us remember an address that nobody has for each try."""
        counted: list[tuple[Throttle, Hashable]] = []
        try:
            for throttle, key in self._concerned(email, address):
                throttle.attempt(key)
                counted.append((throttle, key))
        except TooManyAttempts:
            for throttle, key in counted:
                throttle.forgive(key)
            raise

    def was_right(self, email: str, address: str) -> None:
        """So it was no guess."""
        for throttle, key in self._concerned(email, address):
            throttle.forgive(key)
        pair = (email, network(address))
        self._right[pair] = None
        self._right.move_to_end(pair)
        if len(self._right) > MAX_KEYS:
            self._right.popitem(last=False)

    def _concerned(self, email: str, address: str) -> tuple[tuple[Throttle, Hashable], ...]:
        site = network(address)
        pair = (email, site)
        anywhere = () if pair in self._right else ((self._accounts, email),)
        return (self._addresses, site), (self._pairs, pair), *anywhere

    def sign_up(self, address: str) -> None:
        """Somebody tries to make an account."""
        self._sign_ups.attempt(network(address))


def network(address: str) -> str:
    """What one client has of the addresses: of IPv6 all that begin with the same 64 bits (RFC 4291 2.5.4)."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv6Address):
        mapped = ip.ipv4_mapped
        return str(mapped) if mapped else str(ipaddress.ip_network((ip, 64), strict=False))
    return str(ip)
