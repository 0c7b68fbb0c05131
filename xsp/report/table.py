"""The latency table as aligned cells of plain text, laid out for a given width; terminal and repr
only join them.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from xsp.analysis.spans.tree import OWN_LEVEL, parent_rows
from xsp.report.sentences import DOUBTFUL
from xsp.summary.ranking import certain_shares
from xsp.summary.summarizing import is_traced
from xsp.types import Level
from xsp.words import numbers
from xsp.words.fold import Line, fold_rows
from xsp.words.labels import printable, shapes, short_name, short_source, shorten

if TYPE_CHECKING:
    import pandas as pd

    from xsp.analysis.profile_data import ProfileData

Record = Mapping[Hashable, Any]
"""A row of the latency table by column."""

ROWS = 40
"""Lines of the table unless told otherwise: what a terminal window shows without scrolling."""

BACKWARD = "(bwd)"
_GAP = 2
_INDENT = "  "
_BAR = 8
_NODE_AT_LEAST, _NODE_AT_MOST = 24, 60
_TYPE_AT_MOST, _SHAPE_AT_MOST = 16, 26
_RIGHT = frozenset({"calls", "host ms", "±", "device ms", "share", "kernels"})


@dataclass(frozen=True)
class TableLine:
    """Cells by column title, padded to the column's width, and what a renderer may colour
    them by.
    """

    cells: dict[str, str]
    level: str
    backward: bool = False
    is_fold: bool = False

    @property
    def text(self) -> str:
        """The whole line."""
        return (" " * _GAP).join(self.cells.values()).rstrip()


@dataclass(frozen=True)
class Table:
    """Header and lines, none wider than the width that was asked for."""

    header: TableLine
    lines: list[TableLine]


def laid_out(prof: ProfileData, width: int, rows: int = ROWS, depth: int | None = None) -> Table:
    """The hierarchy in at most `rows` lines and, from 72 characters upwards, `width` characters.

    What does not fit goes in this order: source lines, intervals, shapes, types. Subtrees with
    small shares are folded.
    """
    tree = prof.tree()
    certain = certain_shares(tree).tolist()
    lines = fold_rows(parent_rows(tree), certain, rows, depth)
    records = _records(tree, lines)
    cells = _Cells(prof, records, certain)
    raw = [cells.of(line) for line in lines]
    columns = _columns(raw, width)
    header = TableLine(_padded({name: _title(name) for name in columns}, columns), "header")
    return Table(
        header,
        [_table_line(line, each, records, columns) for line, each in zip(lines, raw, strict=True)],
    )


def _records(tree: pd.DataFrame, lines: list[Line]) -> Mapping[int, Record]:
    """What the lines are made of, by row."""
    rows = [line.row for line in lines if line.row >= 0]
    return dict(zip(rows, tree.iloc[rows].to_dict("records"), strict=True))


class _Cells:
    """Texts of one line, before it is known how much room each column gets."""

    def __init__(
        self, prof: ProfileData, records: Mapping[int, Record], certain: list[float]
    ) -> None:
        self._records, self._certain = records, certain
        self._kernels_known = is_traced(prof, Level.KERNEL)
        self._decimals = numbers.column_decimals(prof.latency_ms)
        self._names = {record["node"]: record["name"] for record in records.values()}

    def of(self, line: Line) -> dict[str, str]:
        """Unpadded cells by column title."""
        return self._rest(line) if line.row < 0 else self._node(line)

    def _node(self, line: Line) -> dict[str, str]:
        record, certain = self._records[line.row], self._certain[line.row]
        share, kernel = record["share"], record["level"] == Level.KERNEL.name
        doubt = DOUBTFUL if math.isnan(certain) and not math.isnan(share) else ""
        calls = record["kernels"] if kernel else record["calls"]
        own = record["level"] == OWN_LEVEL
        return {
            "node": _INDENT * line.depth + self._name(record) + _more(line.hidden),
            "type": "" if own else printable(record["type"] or record["level"].lower()),
            "calls": "" if own else numbers.count(calls, record["level"] != "MODULE" or calls > 0),
            "host ms": numbers.milliseconds(record["host_ms"], self._decimals),
            "±": numbers.plus_minus(record["host_ci_ms"], self._decimals),
            "device ms": numbers.milliseconds(record["device_ms"], self._decimals),
            "share": numbers.percent(share) + doubt,
            "bar": numbers.bar(certain, _BAR),
            "kernels": "" if own else numbers.count(record["kernels"], self._kernels_known),
            "shape": printable(shapes(record["output_shapes"])),
            "source": printable(short_source(record["source"])),
        }

    def _name(self, record: Record) -> str:
        above = self._names.get(record["parent"], "")
        name = printable(
            short_name(record["level"], record["name"], above if record["depth"] > 1 else "")
        )
        backward = record["phase"] == "backward" and record["level"] == Level.LAYER.name
        return f"{name} {BACKWARD}" if backward else name

    def _rest(self, line: Line) -> dict[str, str]:
        limit = numbers.percent(line.share)
        each = f"≤{limit}" if limit[0].isdigit() else limit
        blank = dict.fromkeys(("type", "calls", "host ms", "±", "device ms"), "")
        return {
            "node": _INDENT * line.depth + _more(line.hidden).lstrip(),
            **blank,
            "share": each,
            "bar": "",
            "kernels": "",
            "shape": "",
            "source": "",
        }


def _columns(raw: list[dict[str, str]], width: int) -> dict[str, int]:
    """Widths by column title, in order; the node column takes what the others leave."""
    widest = {
        name: max([len(_title(name)), *(len(cells[name]) for cells in raw)]) for name in raw[0]
    }
    widest["type"] = min(widest["type"], _TYPE_AT_MOST)
    widest["shape"] = min(widest["shape"], _SHAPE_AT_MOST)
    node = min(widest.pop("node"), _NODE_AT_MOST)
    may_be_empty = {"±", "source"}
    names = [
        name for name in widest if name not in may_be_empty or any(cells[name] for cells in raw)
    ]

    def left() -> int:
        return width - sum(widest[name] + _GAP for name in names)

    for dropped in ("source", "±", "shape", "type"):
        wanted = min(node, _NODE_AT_LEAST if dropped == "type" else _NODE_AT_LEAST + 10)
        if dropped in names and left() < wanted:
            names.remove(dropped)
    return {
        "node": max(min(node, left()), _NODE_AT_LEAST // 2),
        **{name: widest[name] for name in names},
    }


def _title(name: str) -> str:
    return "" if name == "bar" else name


def _padded(cells: dict[str, str], columns: dict[str, int]) -> dict[str, str]:
    return {
        name: shorten(cells[name], size).rjust(size)
        if name in _RIGHT
        else shorten(cells[name], size).ljust(size)
        for name, size in columns.items()
    }


def _table_line(
    line: Line, cells: dict[str, str], records: Mapping[int, Record], columns: dict[str, int]
) -> TableLine:
    record = records[line.row if line.row >= 0 else line.parent]
    padded = _padded(
        cells | {"node": _shortened_node(cells["node"], line, columns["node"])}, columns
    )
    return TableLine(padded, record["level"], record["phase"] == "backward", line.row < 0)


def _shortened_node(text: str, line: Line, width: int) -> str:
    """The node cell in `width` characters, by shortening the name: indentation and count are the
    hierarchy.
    """
    indent, tail = (
        _INDENT * min(line.depth, width // 4),
        _more(line.hidden) if line.row >= 0 else "",
    )
    name = text.lstrip(" ").removesuffix(tail)
    return indent + shorten(name, width - len(indent) - len(tail)) + tail


def _more(hidden: int) -> str:
    return f" … {hidden} more" if hidden else ""
