"""Cells and rows of the tables in docs/paper.md."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

MISSING = "–"
V100, HERE = "V100", "here"
MIB = 2**20


def number(value: float | None, digits: int, unit: float = 1.0) -> str:
    """A number in multiples of `unit`, a dash where it is not known."""
    return MISSING if value is None else f"{value / unit:,.{digits}f}"


def percent(share: float | None) -> str:
    """A share with one decimal, a dash where it is not known."""
    # Zero more, so that what rounds to zero from below is not -0.0.
    return MISSING if share is None else f"{round(100 * share, 1) + 0.0:.1f} %"


def bound(memory_bound: bool | None) -> str:
    """What something is bound by, a dash where it is not known."""
    return MISSING if memory_bound is None else "memory" if memory_bound else "compute"


def joined(sizes: Iterable[str | int]) -> str:
    """Batch sizes in ascending order."""
    return ", ".join(map(str, sorted(map(int, sizes))))


def rows_of(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """A table as markdown."""
    yield f"| {' | '.join(heads)} |"
    yield f"|{'---|' * len(heads)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"
