"""
The chart, as SVG: how long a durable save takes, and how many savers get how many saves a second.

It has no background and two sets of colours, of which a browser takes the one for its light or dark mode.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from xml.sax.saxutils import escape

from results import Results
from rows import BATCHES, SAVERS

__all__ = ["draw"]

WIDTH = 960
PANEL, GAP, LABELS, VALUES = 464, 32, 116, 44
BAR, STEP = 11, 17
LINES_HEIGHT, LINES_LEFT, LINES_RIGHT = 300, 60, 190

COLOURS = {
    "wal": ("#0969da", "#4493f8"),
    "compiled": ("#0a3069", "#a5d6ff"),
    "etcd": ("#bc4c00", "#f0883e"),
    "floor": ("#818b98", "#757e89"),
    "peer": ("#a48fd0", "#7d67ab"),
}
"""Of each kind of subject, in light and in dark mode."""

TEXT, FAINT, GRID = ("#1f2328", "#f0f6fc"), ("#59636e", "#9198a1"), ("#d1d9e0", "#3d444d")

Scale = Callable[[float], float]


def draw(results: Results) -> str:
    """Return the chart of what has been measured."""
    parts: list[str] = []
    y = 24.0
    batches = [(entries, size) for entries, size in BATCHES if results.values.get(f"save-{entries}x{size}")]
    if batches:
        parts.append(_text(0, y, "A durable save: milliseconds, p50 (bar, figure) and p99 (line), log scale", "title"))
        y += 16
        for entries in sorted({entries for entries, _ in batches}):
            heights = []
            for column, size in enumerate(sorted({size for _, size in BATCHES})):
                if (entries, size) in batches:
                    drawn, height = _panel(results, entries, size, column * (PANEL + GAP), y)
                    parts += drawn
                    heights.append(height)
            y += max(heights)
    if any(results.values.get(f"{task}-{savers}") for task in ("threads", "tasks") for savers in SAVERS):
        y += 30
        parts.append(_text(0, y, "Durable saves of 100 B a second, by number of savers at once, log scale", "title"))
        parts += _lines(results, y + 16)
        y += LINES_HEIGHT + 60
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y:.0f}" width="{WIDTH}" role="img">'
    return "\n".join([head, f"<style>{_style()}</style>", *parts, "</svg>\n"])


def _style() -> str:
    # Without variables, which not every program that draws SVG knows.
    def colours(mode: int) -> str:
        rules = [f"text {{ fill: {TEXT[mode]} }} .faint {{ fill: {FAINT[mode]} }} .grid {{ stroke: {GRID[mode]} }}"]
        rules += [
            f".{kind} rect, .{kind} circle {{ fill: {both[mode]} }} "
            f".{kind} line, .{kind} polyline {{ stroke: {both[mode]} }}"
            for kind, both in COLOURS.items()
        ]
        return "\n".join(rules)

    return f"""
text {{ font: 12px system-ui, -apple-system, "Segoe UI", sans-serif }}
.title {{ font-size: 17px; font-weight: 600 }} .panel {{ font-weight: 600 }}
.p99 {{ stroke-width: 1.5 }} polyline {{ fill: none; stroke-width: 2; stroke-linejoin: round }}
.threads {{ stroke-dasharray: 5 3 }}
{colours(0)}
@media (prefers-color-scheme: dark) {{
{colours(1)}
}}
"""


def _panel(results: Results, entries: int, size: int, left: float, top: float) -> tuple[list[str], float]:
    """Draw the bars of one row; return how much height they took, too."""
    row = f"save-{entries}x{size}"
    bars = [
        (subject, p50 * 1000, p99 * 1000)
        for subject in results.subjects_of(row)
        if results.subjects[subject]["primary"]
        and (p50 := results.median(row, subject, "p50"))
        and (p99 := results.median(row, subject, "p99"))
    ]
    bars.sort(key=lambda bar: bar[1])
    low, high = min(p50 for _, p50, _ in bars) / 1.6, max(p99 for *_, p99 in bars)
    x = _log_scale(low, high, left + LABELS, left + PANEL - VALUES)
    words = "1 entry" if entries == 1 else f"{entries} entries"
    parts = [_text(left, top + 24, f"{words} of {size} B", "panel")]
    first, bottom = top + 34, top + 34 + STEP * len(bars)
    for tick in _ticks(low, high, steps=(1, 2, 5) if high / low < 100 else (1,)):
        parts.append(_line(x(tick), first, x(tick), bottom, "grid"))
        parts.append(_text(x(tick), bottom + 13, f"{tick:g}", "faint", "middle"))
    for number, (subject, p50, p99) in enumerate(bars):
        y = first + STEP * number + (STEP - BAR) / 2
        middle = y + BAR / 2
        parts += [
            f'<g class="{_kind(results, subject)}">',
            _text(left + LABELS - 6, middle + 4, subject, "", "end"),
            f'<rect x="{x(low):.1f}" y="{y:.1f}" width="{x(p50) - x(low):.1f}" height="{BAR}" rx="1.5"/>',
            _line(x(p50), middle, x(p99), middle, "p99"),
            _line(x(p99), y + 2, x(p99), y + BAR - 2, "p99"),
            _text(x(p99) + 6, middle + 4, f"{p50:.2f}" if p50 < 10 else f"{p50:.1f}", ""),
            "</g>",
        ]
    return parts, bottom - top + 24


def _lines(results: Results, top: float) -> list[str]:
    """Draw saves a second by number of savers: threads are dashed."""
    series = list(_series(results))
    rates = [rate for *_, points in series for _, rate in points]
    low, high = 10.0 ** math.floor(math.log10(min(rates))), 10.0 ** math.ceil(math.log10(max(rates)))
    y = _log_scale(low, high, top + LINES_HEIGHT, top)
    step = (WIDTH - LINES_LEFT - LINES_RIGHT) / (len(SAVERS) - 1)
    parts = []
    for tick in _ticks(low, high, steps=(1,)):
        parts.append(_line(LINES_LEFT, y(tick), WIDTH - LINES_RIGHT, y(tick), "grid"))
        parts.append(_text(LINES_LEFT - 8, y(tick) + 4, f"{tick:,.0f}", "faint", "end"))
    for number, savers in enumerate(SAVERS):
        parts.append(_text(LINES_LEFT + number * step, top + LINES_HEIGHT + 18, str(savers), "faint", "middle"))
    below = top - 100.0
    for label, kind, task, points in sorted(series, key=lambda one: -one[3][-1][1]):
        at = [(LINES_LEFT + SAVERS.index(savers) * step, y(rate)) for savers, rate in points]
        below = max(below + 15, at[-1][1])
        line = " ".join(f"{x:.1f},{height:.1f}" for x, height in at)
        parts += [
            f'<g class="{kind}"><polyline class="{task}" points="{line}"/>',
            *(f'<circle cx="{x:.1f}" cy="{height:.1f}" r="3"/>' for x, height in at),
            _text(at[-1][0] + 10, below + 4, label, ""),
            "</g>",
        ]
    return parts


def _series(results: Results) -> Iterator[tuple[str, str, str, list[tuple[int, float]]]]:
    for subject, known in results.subjects.items():
        for task in ("threads", "tasks"):
            if not known["primary"] or (known["family"] == "etcd" and task == "tasks"):
                continue  # goroutines are in both rows
            points = [
                (savers, rate)
                for savers in SAVERS
                if (rate := results.median(f"{task}-{savers}", subject, "per_second")) is not None
            ]
            words = "goroutines" if known["family"] == "etcd" else {"tasks": "asyncio", "threads": "threads"}[task]
            if points:
                yield f"{subject}, {words}", _kind(results, subject), words, points


def _kind(results: Results, subject: str) -> str:
    known = results.subjects[subject]
    return "compiled" if known.get("compiled") else str(known["family"])


def _log_scale(low: float, high: float, begin: float, end: float) -> Scale:
    ratio = (end - begin) / (math.log(high / low) or 1)
    return lambda value: begin + math.log(value / low) * ratio


def _ticks(low: float, high: float, *, steps: tuple[int, ...]) -> Iterator[float]:
    for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1):
        yield from (tick for step in steps if low <= (tick := step * 10.0**power) <= high)


def _text(x: float, y: float, words: str, kind: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{escape(words)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'
