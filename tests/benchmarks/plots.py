"""Line charts as SVG, with logarithmic axes, readable on light and on dark pages."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape

Points = Sequence[tuple[float, float]]

WIDTH, HEIGHT = 400, 300
"""Of a panel."""
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 34, 46
LINE_HEIGHT = 16
COLOURS = ("#2f81f7", "#d9822b", "#2da44e", "#a371f7")
MARKS = ("circle", "square", "diamond", "triangle")
LEAST_SPAN = 10.0
"""The least ratio of the ends of an axis: a flat line is to look flat."""
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #24292f }
.title { font-weight: 600 }
.axis { stroke: #8c959f; fill: none }
.grid { stroke: #8c959f; stroke-opacity: 0.25 }
@media (prefers-color-scheme: dark) { text { fill: #e6edf3 } }
"""


@dataclass(frozen=True)
class Panel:
    """A chart: points by the name of their line. Values must be greater than 0."""

    title: str
    x_title: str
    y_title: str
    lines: Mapping[str, Points]


class _Axis:
    """A logarithmic axis from a value to a place."""

    def __init__(self, values: Sequence[float], begin: float, end: float) -> None:
        low, high = min(values), max(values)
        missing = max(LEAST_SPAN / (high / low), 1.0) ** 0.5 if high / low < LEAST_SPAN else 1.0
        margin = 1.15
        self.low, self.high = math.log(low / missing / margin), math.log(high * missing * margin)
        self._begin, self._end = begin, end

    def __call__(self, value: float) -> float:
        share = (math.log(value) - self.low) / (self.high - self.low)
        return self._begin + share * (self._end - self._begin)

    def ticks(self) -> list[float]:
        """Return round numbers on the axis: 1, 2 and 5 times powers of ten, or the powers alone where those are many."""
        decades = range(math.floor(self.low / math.log(10)), math.ceil(self.high / math.log(10)) + 1)
        factors = (1, 2, 5) if self.high - self.low <= 3 * math.log(10) else (1,)
        numbers = [factor * 10.0**decade for decade in decades for factor in factors]
        return [number for number in numbers if self.low <= math.log(number) <= self.high]


def svg(panels: Sequence[Panel]) -> str:
    """Return an SVG document with the panels side by side."""
    most = max(len(panel.lines) for panel in panels)
    height = HEIGHT + LINE_HEIGHT * most
    width = WIDTH * len(panels)
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">']
    parts += [f"<title>{escape(', '.join(panel.title for panel in panels))}</title>", f"<style>{STYLE}</style>"]
    for number, panel in enumerate(panels):
        parts.append(f'<g transform="translate({WIDTH * number} 0)">')
        parts += _panel(panel)
        parts.append("</g>")
    return "\n".join([*parts, "</svg>", ""])


def _panel(panel: Panel) -> Iterator[str]:
    points = [point for line in panel.lines.values() for point in line]
    across = _Axis([x for x, _ in points], LEFT, WIDTH - RIGHT)
    up = _Axis([y for _, y in points], HEIGHT - BOTTOM, TOP)
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    yield _text(LEFT, 18, panel.title, "start", "title")
    for value in across.ticks():
        yield f'<path class="grid" d="M{across(value):.1f} {TOP}V{bottom}"/>'
        yield _text(across(value), bottom + 16, short(value))
    for value in up.ticks():
        yield f'<path class="grid" d="M{LEFT} {up(value):.1f}H{right}"/>'
        yield _text(LEFT - 6, up(value) + 4, short(value), "end")
    yield f'<path class="axis" d="M{LEFT} {TOP}V{bottom}H{right}"/>'
    yield _text((LEFT + right) / 2, HEIGHT - 10, panel.x_title)
    middle = (TOP + bottom) / 2
    yield f'<g transform="rotate(-90 14 {middle})">{_text(14, middle, panel.y_title)}</g>'
    for number, (name, line) in enumerate(panel.lines.items()):
        colour, mark = COLOURS[number % len(COLOURS)], MARKS[number % len(MARKS)]
        places = [(across(x), up(y)) for x, y in line]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'
        yield from (_mark(mark, x, y, colour) for x, y in places)
        legend = HEIGHT + LINE_HEIGHT * number
        yield _mark(mark, LEFT + 5, legend + 4, colour)
        yield _text(LEFT + 16, legend + 8, name, "start")


def _text(x: float, y: float, text: str, anchor: str = "middle", kind: str = "") -> str:
    named = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{named}>{escape(text)}</text>'


def _mark(shape: str, x: float, y: float, colour: str) -> str:
    size = 3.5
    if shape == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size}" fill="{colour}"/>'
    corners = {
        "square": ((-size, -size), (size, -size), (size, size), (-size, size)),
        "diamond": ((0, -1.4 * size), (1.4 * size, 0), (0, 1.4 * size), (-1.4 * size, 0)),
        "triangle": ((0, -1.3 * size), (1.3 * size, size), (-1.3 * size, size)),
    }[shape]
    path = " ".join(f"{x + right:.1f},{y + down:.1f}" for right, down in corners)
    return f'<polygon points="{path}" fill="{colour}"/>'


def short(value: float) -> str:
    """Return a number in few characters: 2k, 5M, 0.05."""
    for factor, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:g}{letter}"
    return f"{value:.3g}"
