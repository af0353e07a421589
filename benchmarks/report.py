"""The results as Markdown tables."""

from collections.abc import Iterable, Mapping

from benchmarks.cases import CASES, GOALS, Case, Goal
from benchmarks.ratios import Spread, ratios, spread
from benchmarks.rounds import CaseResult
from benchmarks.runs import BUSY

Results = Mapping[str, CaseResult]
"""By the name of the case."""


def report(results: Results, about: str) -> str:
    """Return the tables: goals first, then each case."""
    parts = [about, goals(results)]
    parts += [table(case, results[case.name]) for case in CASES if case.name in results]
    return "\n\n".join(filter(None, parts))


def goals(results: Results, *, all_of_them: bool = False) -> str:
    """Return the table of our figures beside their goals: those of the measured contestants, or all."""
    shown = [
        goal
        for goal in GOALS
        if all_of_them
        or (goal.case in results and {goal.who, goal.over or goal.who} <= results[goal.case].rounds.keys())
    ]
    rows = [_goal(goal, results.get(goal.case, CaseResult())) for goal in shown]
    if not rows:
        return ""
    return markdown(("What must be shown", "Target", "Median", "Quartiles", ""), rows)


def _goal(goal: Goal, found: CaseResult) -> tuple[str, ...]:
    title = next(case.title for case in CASES if case.name == goal.case)
    target = f"≥ {goal.at_least:g}" if goal.at_least is not None else f"≤ {goal.at_most:g}"
    versus = f" over {goal.over}" if goal.over else ""
    what = f"{goal.who}{versus}: {title}, {goal.figure}"
    figures = measured(found, goal.who, goal.figure, goal.over)
    if not figures:
        return what, target, "not measured", "", "not met"
    seen = spread(figures)
    return (
        what,
        target,
        number(seen.median),
        quartiles(seen),
        "met" if goal.is_met(seen.median) else "not met",
    )


def measured(found: CaseResult, name: str, figure: str, over: str | None) -> list[float]:
    """Return a figure of each round, or its ratio to that of `over`."""
    values = found.values(name, figure)
    if over is None:
        return [value for value in values if value is not None]
    return ratios(values, found.values(over, figure))


def table(case: Case, found: CaseResult) -> str:
    """Return the table of one case: each figure, and its ratio to the first contestant, round by round."""
    reference = next(iter(found.rounds))
    figures = [figure for figure in found.figures() if figure != BUSY]
    rows = [
        _row(found, name, figure, reference)
        for figure in figures
        for name in found.rounds
        if measured(found, name, figure, None)
    ]
    failed = [f"- {name} failed: {why}" for name, why in found.failed.items()]
    busy = [
        f"{name} {spread(values).median:.0%}"
        for name in found.rounds
        if (values := measured(found, name, BUSY, None))
    ]
    notes = [f"The client's processor was busy: {', '.join(busy)} of the time."] if busy else []
    head = ("", "Figure", "Median", "Quartiles", f"Ratio to {reference}", "Quartiles")
    return "\n\n".join(
        [
            f"### {case.title} (n = {max(map(len, found.rounds.values()))})",
            markdown(head, rows),
            *notes,
            *failed,
        ]
    )


def _row(found: CaseResult, name: str, figure: str, reference: str) -> tuple[str, ...]:
    own = spread(measured(found, name, figure, None))
    shared = measured(found, name, figure, reference)
    if name == reference or not shared:
        return name, figure, number(own.median), quartiles(own), "", ""
    ratio = spread(shared)
    return name, figure, number(own.median), quartiles(own), number(ratio.median), quartiles(ratio)


def number(value: float) -> str:
    """Format a number with at least three significant digits."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def quartiles(seen: Spread) -> str:
    return f"{number(seen.low)} to {number(seen.high)}"


def markdown(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """Return a table whose columns are aligned, so that it is readable as plain text."""
    cells = [head, *rows]
    widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(head))]
    lines = [" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
    rule = " | ".join("-" * width for width in widths)
    return "\n".join(f"| {line} |" for line in [lines[0], rule, *lines[1:]])
