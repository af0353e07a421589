"""What may wait for a connection, and what happens to one more."""

import pytest

from app.events.connections import Offered, Outbox

FIRST, BEHIND, OVERFLOW, IGNORED = Offered

# "+" offers the next of a, b, c …; "-" takes one, or finds none (.).
CASES = [
    ("+", [FIRST]),
    ("++", [FIRST, BEHIND]),
    ("-", ["."]),
    ("+-", [FIRST, "a"]),
    ("+-+", [FIRST, "a", BEHIND]),  # the first is still being sent
    ("+--+", [FIRST, "a", ".", FIRST]),
    ("++--", [FIRST, BEHIND, "a", "b"]),
    ("++-+--", [FIRST, BEHIND, "a", BEHIND, "b", "c"]),
    ("+++", [FIRST, BEHIND, OVERFLOW]),
    ("++++", [FIRST, BEHIND, OVERFLOW, IGNORED]),
    ("+++-", [FIRST, BEHIND, OVERFLOW, "."]),  # no list with holes
    ("+++-+", [FIRST, BEHIND, OVERFLOW, ".", IGNORED]),
    ("+-+++", [FIRST, "a", BEHIND, BEHIND, OVERFLOW]),  # two wait behind the one on its way
    ("x+", [IGNORED]),
    ("++x-", [FIRST, BEHIND, "."]),
]


@pytest.mark.parametrize(("steps", "outcome"), CASES)
def test_an_outbox_for_two(steps: str, outcome: list[object]) -> None:
    outbox, texts, found = Outbox(2), iter("abcdefg"), []
    for step in steps:
        if step == "+":
            found.append(outbox.offer(next(texts)))
        elif step == "-":
            found.append(outbox.take() or ".")
        else:
            outbox.close()
    assert found == outcome
