"""AMF0 (Action Message Format): the values of RTMP commands and of FLV script tags. Pure."""

import struct
from enum import IntEnum

from app.formats.bits import ByteReader
from app.formats.errors import Malformed

Value = float | bool | str | None | list["Value"] | dict[str, "Value"]

MAX_VALUES = 10_000
"""Values of one message."""
MAX_DEPTH = 16


class Marker(IntEnum):
    """The first byte of a value."""

    NUMBER = 0
    BOOLEAN = 1
    STRING = 2
    OBJECT = 3
    NULL = 5
    UNDEFINED = 6
    ECMA_ARRAY = 8
    OBJECT_END = 9
    STRICT_ARRAY = 10
    DATE = 11
    LONG_STRING = 12
    TYPED_OBJECT = 16


def parse_values(data: bytes) -> list[Value]:
    """Return the values of a message, one after another. Raises Malformed."""
    parser = _Parser(data)
    values = []
    while parser.reader.left:
        values.append(parser.value(0))
    return values


class _Parser:
    def __init__(self, data: bytes) -> None:
        self.reader = ByteReader(data)
        self._left = MAX_VALUES

    def value(self, depth: int) -> Value:
        """Parse one value. Raises Malformed."""
        self._left -= 1
        if depth > MAX_DEPTH or self._left < 0:
            raise Malformed("An AMF message is nested too deeply, or contains too many values.")
        reader = self.reader
        match reader.unsigned(1):
            case Marker.NUMBER:
                return float(struct.unpack(">d", reader.take(8))[0])
            case Marker.BOOLEAN:
                return reader.unsigned(1) != 0
            case Marker.STRING:
                return self._text(2)
            case Marker.OBJECT:
                return self._object(depth)
            case Marker.NULL | Marker.UNDEFINED:
                return None
            case Marker.ECMA_ARRAY:
                reader.take(4)
                return self._object(depth)
            case Marker.STRICT_ARRAY:
                return [self.value(depth + 1) for _ in range(min(reader.unsigned(4), MAX_VALUES + 1))]
            case Marker.DATE:
                milliseconds = float(struct.unpack(">d", reader.take(8))[0])
                reader.take(2)
                return milliseconds
            case Marker.LONG_STRING:
                return self._text(4)
            case Marker.TYPED_OBJECT:
                self._text(2)
                return self._object(depth)
            case marker:
                raise Malformed(f"An AMF message contains a value of the unknown type {marker}.")

    def _text(self, size: int) -> str:
        return self.reader.take(self.reader.unsigned(size)).decode("utf-8", "replace")

    def _object(self, depth: int) -> dict[str, Value]:
        found: dict[str, Value] = {}
        while True:
            name = self._text(2)
            if not name and self.reader.left and self._is_end():
                return found
            found[name] = self.value(depth + 1)

    def _is_end(self) -> bool:
        if self.reader.unsigned(1) == Marker.OBJECT_END:
            return True
        self.reader.position -= 1
        return False


def encode_values(*values: Value) -> bytes:
    """Return the message that contains the values."""
    return b"".join(map(_encoded, values))


def _encoded(value: Value) -> bytes:
    match value:
        case None:
            return bytes([Marker.NULL])
        case bool():
            return bytes([Marker.BOOLEAN, value])
        case int() | float():
            return bytes([Marker.NUMBER]) + struct.pack(">d", value)
        case str():
            text = value.encode()
            if len(text) < 1 << 16:
                return bytes([Marker.STRING]) + _name(value)
            return bytes([Marker.LONG_STRING]) + len(text).to_bytes(4, "big") + text
        case list():
            return (
                bytes([Marker.STRICT_ARRAY]) + len(value).to_bytes(4, "big") + b"".join(map(_encoded, value))
            )
        case dict():
            pairs = b"".join(_name(name) + _encoded(one) for name, one in value.items())
            return bytes([Marker.OBJECT]) + pairs + b"\x00\x00" + bytes([Marker.OBJECT_END])


def _name(text: str) -> bytes:
    encoded = text.encode()
    return len(encoded).to_bytes(2, "big") + encoded
