"""Draw the ratios as SVG, for light and dark pages."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape

from benchmarks.cases import CASES, GOALS, Case
from benchmarks.ratios import Spread, ratios, spread
from benchmarks.report import number
from benchmarks.rounds import CaseResult

LEFT, RIGHT, WIDTH = 190, 880, 960
"""Pixels from the left at which names end and bars begin, at which bars end, and of the whole picture."""
ROW, GAP, TOP = 20, 34, 88
STEPS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000)

STYLE = """
  svg { background: #fff; font: 13px system-ui, sans-serif; }
  text { fill: #333; } .soft { fill: #777; } .title { font-weight: 600; } .head { font-size: 17px; }
  .grid { stroke: #e4e4e4; } .one { stroke: #999; } .spread { stroke: #333; }
  .goal { stroke: #c2410c; stroke-width: 2; }
  .bar { fill: #b8c0cc; } .ours { fill: #2563eb; }
  @media (prefers-color-scheme: dark) {
    svg { background: #16181d; } text { fill: #ddd; } .soft { fill: #999; }
    .grid { stroke: #2c3038; } .one { stroke: #777; } .spread { stroke: #ddd; } .goal { stroke: #fb923c; }
    .bar { fill: #4b5563; } .ours { fill: #60a5fa; }
  }
"""


@dataclass(frozen=True)
class Group:
    """One figure of one case: each contestant's ratio to the reference, and the goals for some of them."""

    title: str
    reference: str
    bars: dict[str, Spread]
    goals: dict[str, float]


def plot(results: Mapping[str, CaseResult]) -> str:
    """Return an SVG of bars from 1 to each ratio, on a logarithmic scale, with quartiles and goals."""
    groups = [group for case in CASES if case.name in results for group in _groups(case, results[case.name])]
    ends = [end for group in groups for bar in group.bars.values() for end in (bar.low, bar.high)]
    scale = _Scale(min([*ends, 0.1]), max([*ends, 10]))
    y, drawn = TOP, []
    for group in groups:
        drawn += _draw(group, y, scale)
        y += ROW * len(group.bars) + GAP
    grid = [line for step in STEPS if scale.low <= step <= scale.high for line in _step(step, scale, y - 20)]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" width="{WIDTH}" role="img">',
            "<title>Ratios of figures that were measured side by side</title>",
            f"<style>{STYLE}</style>",
            '<text class="head title" x="16" y="28">Side by side</text>',
            '<text class="soft" x="16" y="48">Medians of ratios within rounds, with quartiles; '
            "a coloured line marks the goal.</text>",
            *grid,
            *drawn,
            "</svg>\n",
        ]
    )


class _Scale:
    """A logarithmic scale from ratios to pixels."""

    def __init__(self, low: float, high: float) -> None:
        self.low = max([step for step in STEPS if step <= low], default=STEPS[0])
        self.high = min([step for step in STEPS if step >= high], default=STEPS[-1])

    def x(self, ratio: float) -> float:
        inside = min(max(ratio, self.low), self.high)
        share = math.log(inside / self.low) / math.log(self.high / self.low)
        return LEFT + share * (RIGHT - LEFT)


def _groups(case: Case, found: CaseResult) -> list[Group]:
    """Return the first figure of a case, and every other one with a goal as a ratio to its reference."""
    reference = next(iter(found.rounds))
    goals = [goal for goal in GOALS if (goal.case, goal.over) == (case.name, reference)]
    groups = []
    for figure in dict.fromkeys([*found.figures()[:1], *(goal.figure for goal in goals)]):
        theirs = found.values(reference, figure)
        pairs = {
            name: ratios(found.values(name, figure), theirs) for name in found.rounds if name != reference
        }
        bars = {name: spread(values) for name, values in pairs.items() if values}
        better = "more is better" if figure.endswith("/s") else "less is better"
        wanted = {goal.who: goal.at_least or goal.at_most or 1 for goal in goals if goal.figure == figure}
        if bars:
            groups.append(Group(f"{case.title}: {figure}, {better}", reference, bars, wanted))
    return groups


def _step(step: float, scale: _Scale, bottom: float) -> list[str]:
    x = scale.x(step)
    kind = "one" if step == 1 else "grid"
    return [
        f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 18}" y2="{bottom}"/>',
        f'<text class="soft" x="{x:.1f}" y="{TOP - 24}" text-anchor="middle">{step:g}</text>',
    ]


def _draw(group: Group, y: float, scale: _Scale) -> list[str]:
    drawn = [
        f'<text class="title" x="16" y="{y}">{escape(group.title)} '
        f'<tspan class="soft" font-weight="400">(1 is {escape(group.reference)})</tspan></text>'
    ]
    for place, (name, bar) in enumerate(group.bars.items()):
        goal = group.goals.get(name)
        drawn += _bar(name, bar, y + 8 + place * ROW, scale, beside=max(1, bar.high, goal or 1))
        if goal is not None:
            x, top = scale.x(goal), y + 6 + place * ROW
            drawn.append(f'<line class="goal" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{top + ROW - 2}"/>')
    return drawn


def _bar(name: str, bar: Spread, y: float, scale: _Scale, *, beside: float) -> list[str]:
    """Draw a bar, with its number to the right of the ratio `beside`."""
    one, end, low, high = (scale.x(value) for value in (1, bar.median, bar.low, bar.high))
    kind = "bar ours" if name.startswith("Seekable") else "bar"
    middle, width = y + ROW / 2 - 2, max(1.0, abs(end - one))
    return [
        f'<text x="{LEFT - 10}" y="{middle + 4}" text-anchor="end">{escape(name)}</text>',
        f'<rect class="{kind}" x="{min(one, end):.1f}" y="{y}" width="{width:.1f}" height="{ROW - 5}"/>',
        f'<line class="spread" x1="{low:.1f}" x2="{high:.1f}" y1="{middle}" y2="{middle}"/>',
        f'<text x="{scale.x(beside) + 6:.1f}" y="{middle + 4}">{number(bar.median)}</text>',
    ]
