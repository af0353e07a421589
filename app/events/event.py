"""What is told of a change."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

RESYNC = "resync"
"""The type of the event that says: list again."""


@dataclass(frozen=True, slots=True)
class Event:
    """A hint that something changed; what is there now is for the lists to say."""

    type: str
    """Such as `file.created`."""
    library: str
    """Whose change it is: no other library hears of it."""
    data: Mapping[str, str] = field(default_factory=dict)

    def text(self) -> str:
        """As it is sent: an object with the type, and the data beside it."""
        return compact({"type": self.type, **self.data})


def compact(message: Mapping[str, object]) -> str:
    """JSON as every socket sends it."""
    return json.dumps(message, ensure_ascii=False, separators=(",", ":"))
