"""Tables of the README and of docs/ as tests expect them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table_rows(lines: Iterable[Sequence[str]]) -> str:
    """Markdown rows of these cells."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
