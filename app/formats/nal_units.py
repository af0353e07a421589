"""NAL units of H.264 and HEVC: from Annex B to lengths, and the parameter sets among them. Pure."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from app.formats import h264, hevc
from app.formats.errors import Malformed
from app.formats.samples import Codec, Track

MAX_UNITS = 4096
"""NAL units of one access unit: each costs more memory than its bytes."""

_MAX_PARAMETER_SETS = 64
_MAX_PARAMETER_SET = 4096
_START_CODE = b"\x00\x00\x01"


def split_annex_b(data: bytes) -> list[bytes]:
    """Return the NAL units between start codes, without trailing zeros (H.264 Annex B). Raises Malformed."""
    if data.count(_START_CODE) > MAX_UNITS:
        raise Malformed("A picture consists of too many NAL units.")
    # A NAL unit never ends with a zero byte: zeros before a start code belong to the start code.
    return [unit for piece in data.split(_START_CODE)[1:] if (unit := piece.rstrip(b"\x00"))]


def split_lengths(data: bytes, size: int) -> Iterator[bytes]:
    """Yield the NAL units of a sample whose lengths have `size` bytes. Raises Malformed."""
    at = 0
    while at < len(data):
        stop = at + size + int.from_bytes(data[at : at + size], "big")
        if stop > len(data):
            raise Malformed("A NAL unit is longer than its sample.")
        if stop > at + size:
            yield data[at + size : stop]
        at = stop


def join_lengths(units: Iterable[bytes]) -> bytes:
    """Return a sample: each NAL unit after its length of four bytes."""
    return b"".join([part for unit in units for part in (len(unit).to_bytes(4, "big"), unit)])


@dataclass
class ParameterSets:
    """The parameter sets of one stream. They make its configuration."""

    codec: Codec
    sets: dict[tuple[int, int], bytes] = field(default_factory=dict)
    """By type of NAL unit and id."""

    @property
    def is_complete(self) -> bool:
        kinds = {kind for kind, _ in self.sets}
        return kinds >= (h264.PARAMETER_SETS if self.codec is Codec.H264 else hevc.PARAMETER_SETS)

    def add(self, kind: int, unit: bytes) -> bool:
        """Store a parameter set, and return whether it differs from the stored one."""
        if len(unit) > _MAX_PARAMETER_SET:
            raise Malformed("A parameter set is too long.")
        key = (kind, h264.set_id(unit) if self.codec is Codec.H264 else hevc.set_id(unit))
        if self.sets.get(key) == unit:
            return False
        if len(self.sets) >= _MAX_PARAMETER_SETS:
            raise Malformed("The stream contains too many parameter sets.")
        self.sets[key] = unit
        return True

    def add_if_set(self, unit: bytes) -> None:
        """Store the unit if it is a parameter set."""
        rules = _RULES[self.codec]
        if rules.unit_type(unit) in rules.PARAMETER_SETS:
            self.add(rules.unit_type(unit), unit)

    def track(self, number: int, timescale: int, language: str = "und") -> Track:
        """Return the track that the sets describe, with sizes as they are displayed. Raises Malformed."""
        by_kind: dict[int, list[bytes]] = {}
        for (kind, _), unit in sorted(self.sets.items()):
            by_kind.setdefault(kind, []).append(unit)
        if self.codec is Codec.H264:
            configuration = h264.configuration(by_kind[h264.SPS], by_kind[h264.PPS])
            described = h264.parse_sps(by_kind[h264.SPS][0])
            width, height = described.width, described.height
        else:
            configuration = hevc.configuration(by_kind)
            picture = hevc.parse_sps(by_kind[hevc.SPS][0])
            width, height = picture.width, picture.height
        return Track(number, self.codec, timescale, configuration, width, height, language=language)


@dataclass
class AccessUnits:
    """Turns the NAL units of each access unit into a sample, and keeps track of the configuration."""

    codec: Codec
    number: int
    timescale: int
    language: str = "und"
    track: Track | None = None
    """None until the parameter sets have arrived."""
    _known: ParameterSets = field(init=False)
    _stay: bool = False

    def __post_init__(self) -> None:
        self._known = ParameterSets(self.codec)

    def convert(self, units: list[bytes]) -> tuple[bytes, bool]:
        """Return the sample, and whether it is a key frame.

        Parameter sets leave the sample for the configuration, which changes with them at key frames only.
        Once one changes between key frames, all stay in the samples: the decoder must return to the former
        set, too.
        """
        rules = _RULES[self.codec]
        kinds = [rules.unit_type(unit) for unit in units]
        is_key = rules.is_key(kinds, units)
        is_changed = False
        kept = []
        for kind, unit in zip(kinds, units, strict=True):
            if kind in rules.PARAMETER_SETS:
                if self.track is None or is_key:
                    is_changed |= self._known.add(kind, unit)
                elif unit not in self._known.sets.values():
                    self._stay = True
                if self._stay:
                    kept.append(unit)
            elif kind not in rules.DISCARDED:
                kept.append(unit)
        if is_changed and self._known.is_complete:
            self.track = self._known.track(self.number, self.timescale, self.language)
        return join_lengths(kept), is_key


class _Rules(Protocol):
    """The names that the modules of both codecs have."""

    PARAMETER_SETS: frozenset[int]
    DISCARDED: frozenset[int]

    def unit_type(self, unit: bytes) -> int: ...

    def is_key(self, kinds: Sequence[int], units: Sequence[bytes]) -> bool: ...


_RULES: dict[Codec, _Rules] = {Codec.H264: h264, Codec.HEVC: hevc}
