"""Who seems to guess passwords, and has to wait."""

import hashlib
import ipaddress

from app.accounts.attempts import Bucket
from app.accounts.throttle import Throttle

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


RIGHT_LASTS_S = 30 * 86400
"""How long it is known from where somebody has logged in."""


class Guesses:
    """Counts before a password is looked at, so that a thousand at once are not looked at all; in whichever
    process they try. Raises TooManyAttempts, and the database's StorageUnavailable."""

    def __init__(self, throttle: Throttle) -> None:
        self._throttle = throttle

    async def guess(self, email: str, address: str) -> None:
        """Somebody tries a password for this account."""
        await self._throttle.attempt(*_concerned(email, address))

    async def was_right(self, email: str, address: str) -> None:
        """So it was no guess."""
        buckets = _concerned(email, address)
        await self._throttle.forgive(buckets, note=buckets[-1].unless, for_s=RIGHT_LASTS_S)

    async def sign_up(self, address: str) -> None:
        """Somebody tries to make an account."""
        await self._throttle.attempt(Bucket(_key("sign-up", network(address)), SIGN_UPS, SIGN_UP_WINDOW_S))


def _concerned(email: str, address: str) -> tuple[Bucket, ...]:
    site = network(address)
    return (
        Bucket(_key("address", site), PER_ADDRESS, WINDOW_S),
        Bucket(_key("pair", email, site), PER_PAIR, WINDOW_S),
        Bucket(_key("account", email), PER_ACCOUNT, WINDOW_S, unless=_key("right", email, site)),
    )


def _key(*words: str) -> str:
    """Nobody need read in a database who was where; and names have any length."""
    return hashlib.sha256("\n".join(words).encode(errors="surrogatepass")).hexdigest()


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
