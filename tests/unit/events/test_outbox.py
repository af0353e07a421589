"""The outbox of a connection: order, bound and overflow."""

import pytest

from app.events.connections import Offered, Outbox

FIRST, BEHIND, OVERFLOW, IGNORED = Offered

# "+" offers the next of a, b, c, …; "-" takes one, or finds the outbox empty (.).
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
    ("+++-", [FIRST, BEHIND, OVERFLOW, "."]),  # a gap in the sequence is never sent
    ("+++-+", [FIRST, BEHIND, OVERFLOW, ".", IGNORED]),
    ("+-+++", [FIRST, "a", BEHIND, BEHIND, OVERFLOW]),  # two wait behind the one being sent
    ("x+", [IGNORED]),
    ("++x-", [FIRST, BEHIND, "."]),
]


@pytest.mark.parametrize(("steps", "outcome"), CASES)
def test_outbox_of_two_bounds_and_orders_texts(steps: str, outcome: list[object]) -> None:
    outbox, texts, found = Outbox(2), iter("abcdefg"), []
    for step in steps:
        if step == "+":
            found.append(outbox.offer(next(texts)))
        elif step == "-":
            found.append(outbox.take() or ".")
        else:
            outbox.close()
    assert found == outcome
