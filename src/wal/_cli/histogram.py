# SPDX-License-Identifier: Apache-2.0
"""Latencies: their quantiles, and how they are distributed."""

from __future__ import annotations

from collections import Counter
from math import ceil, log2

__all__ = ["bars", "duration", "quantile"]

WIDTH = 40


def quantile(ordered: list[float], part: float) -> float:
    """Return the value that ``part`` of the values, which are in order, do not exceed."""
    return ordered[max(ceil(part * len(ordered)) - 1, 0)]


def duration(seconds: float) -> str:
    """Return a time with three digits and its unit."""
    for factor, unit in ((1e6, "us"), (1e3, "ms"), (1, "s")):
        value = seconds * factor
        if value < 999.5 or unit == "s":
            digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
            return f"{value:.{digits}f} {unit}"
    raise AssertionError


def bars(seconds: list[float]) -> list[str]:
    """
    Return a histogram, a line for each class.

    A class reaches from a power of two microseconds to the next. Those between the first and the last that have values
    are all there, so the lines are a scale.
    """
    classes = Counter(max(ceil(log2(max(value * 1e6, 1))), 0) for value in seconds)
    most = max(classes.values(), default=0)
    lines = []
    for number in range(min(classes, default=0), max(classes, default=-1) + 1):
        count = classes[number]
        bar = "#" * ceil(count * WIDTH / most)
        lines.append(f"  up to {duration(2**number / 1e6):>7}  {count:>8,}  {bar}".rstrip())
    return lines
