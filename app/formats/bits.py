"""Reading of bits and of whole bytes, most significant first. Both readers raise Malformed at the end.

Pure.
"""

from app.formats.errors import Malformed

MAX_ZEROS = 32
"""Leading zeros of an Exp-Golomb code: values fit into 32 bits."""


class BitReader:
    """Reads the fields of a parameter set or of a frame header."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0
        self._stop = 8 * len(data)

    def bits(self, count: int) -> int:
        """Return the next `count` bits as an unsigned number."""
        start = self._position
        stop = start + count
        if stop > self._stop:
            raise Malformed("A codec configuration ends too early.")
        self._position = stop
        last = (stop + 7) >> 3
        value = int.from_bytes(self._data[start >> 3 : last], "big")
        return value >> (8 * last - stop) & ((1 << count) - 1)

    def flag(self) -> bool:
        return self.bits(1) == 1

    def skip(self, count: int) -> None:
        self.bits(count)

    def ue(self) -> int:
        """Return an unsigned Exp-Golomb code (H.264 §9.1)."""
        zeros = 0
        while not self.bits(1):
            zeros += 1
            if zeros > MAX_ZEROS:
                raise Malformed("A codec configuration contains a number of more than 32 bits.")
        return (1 << zeros) - 1 + self.bits(zeros)

    def se(self) -> int:
        """Return a signed Exp-Golomb code (H.264 §9.1.1)."""
        code = self.ue()
        return (code + 1) // 2 if code & 1 else -(code // 2)


class ByteReader:
    """Reads fields of whole bytes from a box, a tag or a section."""

    def __init__(self, data: bytes, start: int = 0, stop: int | None = None) -> None:
        self._data = data
        self._stop = len(data) if stop is None else min(stop, len(data))
        self.position = start

    @property
    def left(self) -> int:
        return max(self._stop - self.position, 0)

    def take(self, count: int) -> bytes:
        """Return the next `count` bytes."""
        start = self.position
        if count < 0 or start + count > self._stop:
            raise Malformed("A structure is shorter than its fields.")
        self.position = start + count
        return self._data[start : start + count]

    def rest(self) -> bytes:
        return self.take(self.left)

    def unsigned(self, count: int) -> int:
        """Return the next `count` bytes as an unsigned number."""
        return int.from_bytes(self.take(count), "big")

    def signed(self, count: int) -> int:
        return int.from_bytes(self.take(count), "big", signed=True)


class Backlog:
    """Collects pieces until enough have arrived: joining them after each piece would take quadratic time."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0
        self._needed = 1

    def add(self, piece: bytes) -> bytes:
        """Return all bytes that have arrived; nothing while fewer than needed have."""
        self._pieces.append(piece)
        self._size += len(piece)
        if self._size < self._needed:
            return b""
        data = b"".join(self._pieces) if len(self._pieces) > 1 else piece
        self._pieces.clear()
        self._size = 0
        return data

    def keep(self, rest: bytes, needed: int) -> None:
        """Keep bytes that cannot be parsed before there are `needed` of them."""
        if rest:
            self._pieces.append(rest)
        self._size = len(rest)
        self._needed = max(needed, self._size + 1)
