"""Numbers as people read them: one format per quantity, the same everywhere; what is unknown is a
dash.
"""

from __future__ import annotations

import math

UNKNOWN = "–"
"""Stands for a number that was not measured; a measured zero is written as 0."""

_EIGHTHS = " ▏▎▍▌▋▊▉"


def known(value: float) -> float | None:
    """The number for JSON, which has neither NaN nor infinity: None where it is not known."""
    return float(value) if math.isfinite(value) else None


def known_digits(value: float, digits: int) -> float | None:
    """`known` with so many significant digits."""
    return float(f"{value:.{digits}g}") if math.isfinite(value) else None


def decimals_for(largest_ms: float) -> int:
    """Decimals that give a column of milliseconds about four significant digits at its largest
    value.
    """
    if not math.isfinite(largest_ms) or largest_ms <= 0:
        return 3
    return min(4, max(1, 3 - math.floor(math.log10(largest_ms))))


def column_decimals(largest_ms: float) -> int:
    """Decimals for a column whose largest value is given: microseconds, for which a kernel can be
    told from nothing.
    """
    return 4 if largest_ms < 1 else 3 if largest_ms < 1000 else 2


def milliseconds(value: float, decimals: int = 3) -> str:
    """`1.234`; `<0.001` for what would round to zero, a dash for NaN."""
    if math.isnan(value):
        return UNKNOWN
    text = f"{value:.{decimals}f}"
    least = 10.0**-decimals
    return f"<{least:.{decimals}f}" if value > 0 and float(text) == 0 else text


def plus_minus(half_width: float, decimals: int = 3) -> str:
    """`±0.012`, empty where the interval is unknown (fewer than two samples)."""
    return "" if math.isnan(half_width) else f"±{milliseconds(half_width, decimals)}"


def percent(share: float) -> str:
    """`12.3%` of a share in [0, 1]; `<0.1%` for what would round to zero, a dash for NaN."""
    if math.isnan(share):
        return UNKNOWN
    return "<0.1%" if 0 < share < 0.0005 else f"{share:.1%}"


def count(number: float, known: bool = True) -> str:
    """`1234`, or a dash where it was not counted."""
    return str(int(number)) if known and not math.isnan(number) else UNKNOWN


def bar(share: float, width: int = 8) -> str:
    """A bar of `width` characters in steps of an eighth; shares above 1 fill it, unknown ones leave
    it empty.
    """
    if math.isnan(share):
        return " " * width
    eighths = round(min(max(share, 0.0), 1.0) * width * 8)
    whole, rest = divmod(eighths, 8)
    return ("█" * whole + (_EIGHTHS[rest] if rest else "")).ljust(width)


def quantity(number: float, noun: str) -> str:
    """`1 kernel`, `2 kernels`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def nanoseconds(value: float) -> str:
    """A duration with the unit that suits its size: `850 ns`, `1.2 µs`, `3.40 ms`."""
    if value < 1e3:
        return f"{value:.0f} ns"
    return f"{value / 1e3:.1f} µs" if value < 1e6 else f"{value / 1e6:.2f} ms"
