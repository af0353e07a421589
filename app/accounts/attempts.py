"""What may be tried so often only, by whoever it is: the attempts of all processes are counted together."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Bucket:
    """`limit` attempts at once, and as many in each `window_s` seconds. See `throttle.poured`."""

    key: str
    """Of up to 64 characters in ASCII."""
    limit: int
    window_s: float
    unless: str = ""
    """Where this was noted, it is not asked."""


class AttemptStore(Protocol):
    """What was attempted lately, by the clock of the database. Plain blocking calls, from any thread; each
    may raise the database's StorageUnavailable or OutOfSpace. What a power cut takes away is no harm."""

    def attempt(self, buckets: Sequence[Bucket]) -> tuple[Bucket, float] | None:
        """Pour one into each, or into none: then which of them has no room, and the seconds until it has."""
        ...

    def forgive(self, buckets: Collection[Bucket], *, note: str, for_s: float) -> None:
        """Take one out of each again, and note this for so long."""
        ...

    def sweep_attempts(self, most: int) -> None:
        """Forget what is over, and beyond so many what will be over first."""
        ...
