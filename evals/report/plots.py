"""Line plots as inline SVG: accuracy against a cost, one line per method. Colours and type come from the page's CSS."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 520, 320
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 14, 46
COLOURS = 8
"""Classes c0 ... c7 of the style sheet; further series begin again, with other marks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    x: float
    y: float
    low: float
    high: float
    """Interval of y."""
    note: str
    """Shown on hovering."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    name: str
    index: int
    """Decides colour and mark."""
    points: tuple[Point, ...]
    variant: int = 0
    """Of several lines of one colour: how it is drawn."""


def line_plot(series: Sequence[Series], *, x_label: str, is_logarithmic: bool) -> str:
    """The plot; y is a share, drawn in per cent. An empty string if there is no point."""
    points = [point for one in series for point in one.points]
    if not points:
        return ""
    xs = [point.x for point in points]
    x_ticks = log_ticks(min(xs), max(xs)) if is_logarithmic else ticks(0.0, max(xs))
    y_ticks = ticks(min(point.low for point in points), max(point.high for point in points))
    x_scale, y_scale = (
        _Scale(x_ticks, LEFT, WIDTH - RIGHT, is_logarithmic),
        _Scale(y_ticks, HEIGHT - BOTTOM, TOP, False),
    )
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="accuracy against {escape(x_label)}">']
    for tick in y_ticks:
        y = y_scale(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{100 * tick:.0f}%</text>')
    for tick in x_ticks:
        x, y = x_scale(tick), HEIGHT - BOTTOM
        parts.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{y}" y2="{y + 4}"/>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="{y + 18}" text-anchor="middle">{short(tick)}</text>')
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{HEIGHT - BOTTOM}" y2="{HEIGHT - BOTTOM}"/>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text class="label" x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x_label)}</text>')
    middle = (TOP + HEIGHT - BOTTOM) / 2
    turned = f'x="12" y="{middle}" transform="rotate(-90 12 {middle})"'
    parts.append(f'<text class="label" {turned} text-anchor="middle">accuracy</text>')
    for one in series:
        places = [(x_scale(point.x), y_scale(point.y), point) for point in one.points]
        variant = f" v{one.variant}" if one.variant else ""
        parts.append(f'<g class="series c{one.index % COLOURS}{variant}" data-series="{one.index}">')
        if len(places) > 1:
            parts.append(f'<polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y, _ in places)}"/>')
        for x, y, point in places:
            low, high = y_scale(point.low), y_scale(point.high)
            parts.append(f'<line class="interval" x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>')
            parts.append(_mark(one.index // COLOURS, x, y, f"{one.name}: {point.note}"))
        parts.append("</g>")
    return "".join((*parts, "</svg>"))


def _mark(kind: int, x: float, y: float, note: str) -> str:
    title = f"<title>{escape(note)}</title>"
    if kind == 0:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5">{title}</circle>'
    return f'<rect x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8">{title}</rect>'


class _Scale:
    """Values between the first and last tick to coordinates."""

    def __init__(self, ends: Sequence[float], start: float, stop: float, is_logarithmic: bool) -> None:
        self.map = math.log if is_logarithmic else float
        self.low, self.high = self.map(ends[0]), self.map(ends[-1])
        self.start, self.stop = start, stop

    def __call__(self, value: float) -> float:
        share = (self.map(value) - self.low) / (self.high - self.low)
        return self.start + share * (self.stop - self.start)


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers, evenly spaced by 1, 2 or 5 times a power of ten, from at most `low` to at least `high`."""
    span = max(high - low, 1e-9)
    power = 10.0 ** math.floor(math.log10(span / count))
    step = next(step for step in (1 * power, 2 * power, 5 * power, 10 * power) if span / step <= count)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, max(last, first + 1) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of two, at most seven, from at most `low` to at least `high`; both positive."""
    first, last = math.floor(math.log2(low) + 1e-9), math.ceil(math.log2(high) - 1e-9)
    step = max(1, math.ceil((last - first) / 6))
    last = first + max(1, math.ceil((last - first) / step)) * step
    return [2.0**i for i in range(first, last + 1, step)]


def short(value: float) -> str:
    """`512`, `4k`, `1.5M`: for ticks; thousands of a power of two are 1024."""
    for limit, letter in ((1e6, "M"), (1e3, "k")):
        unit = 1024.0 if letter == "k" and value % 1024 == 0 else limit
        if value >= limit:
            return f"{value / unit:.3g}{letter}"
    return f"{value:.3g}"
