"""Tables for the HTML report: from a DataFrame to what the page's script reads, safe inside a
`<script>` element.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pandas as pd

from xsp.words.distinct import distinct_names
from xsp.words.labels import printable, shorten
from xsp.words.numbers import known_digits

if TYPE_CHECKING:
    from xsp.analysis.profile_data import ProfileData

_KERNEL_AT_MOST = 44
"""Characters of a kernel's name in a column."""
_TITLE_AT_MOST = 600
"""Characters of a full name or of arguments that hovering shows; C++ templates run to thousands."""


@dataclass(frozen=True)
class Column:
    """A column of a table: numbers are divided by `scale`; of texts `text` is shown, and the whole
    where one hovers; of kernels (`is_kernel`) what tells the table's kernels apart.
    """

    name: str
    head: str
    why: str = ""
    kind: str = "number"
    scale: float = 1.0
    text: Callable[[str], str] = field(default=str)
    hovers: bool = False
    is_kernel: bool = False


@dataclass(frozen=True)
class Sheet:
    """A table of the report with its caption; `key` is its id in the page."""

    key: str
    caption: str
    columns: Sequence[Column]
    rows: Callable[[ProfileData], pd.DataFrame]


def sheet_data(sheet: Sheet, frame: pd.DataFrame) -> dict[str, Any]:
    """The table as the page's script reads it: per column its head and its values, or texts once
    each and codes.

    Unknown numbers are null. A text is `[shown]` or `[shown, full]`. A phase that all layers have
    is not a column.
    """
    one_phase = "phase" in frame and frame["phase"].nunique() == 1
    present = [
        column
        for column in sheet.columns
        if column.name in frame and not (column.name == "phase" and one_phase)
    ]
    return {
        "rows": len(frame),
        "columns": [_column_data(column, frame[column.name]) for column in present],
    }


def _column_data(column: Column, values: pd.Series[Any]) -> dict[str, Any]:
    facts = {"head": column.head, "why": column.why, "kind": column.kind}
    if column.kind == "text":
        codes, distinct = pd.factorize(values.astype(object).map(_as_text))
        return facts | {
            "hovers": column.hovers,
            "codes": codes.tolist(),
            "texts": _texts(column, distinct.tolist()),
        }
    amounts = pd.to_numeric(values, errors="coerce").astype(float).to_numpy() / column.scale
    rounded = [known_digits(amount, 7) for amount in amounts.tolist()]
    return facts | {"values": rounded}


def _as_text(value: object) -> str:
    return "" if value is None or value is pd.NA or value != value else str(value)  # noqa: PLR0124 # NaN


def _texts(column: Column, distinct: Sequence[str]) -> list[list[str]]:
    short = distinct_names(distinct, _KERNEL_AT_MOST) if column.is_kernel else {}
    return [_shown_and_full(column, text, short.get(text, column.text(text))) for text in distinct]


def _shown_and_full(column: Column, text: str, short: str) -> list[str]:
    full = printable(shorten(text, _TITLE_AT_MOST))
    shown = printable(shorten(short, _TITLE_AT_MOST))
    return [shown, full] if column.hovers and shown != full else [shown]


def script_json(value: Any) -> str:
    """JSON that can stand in a `<script>` element whatever the names in it are: no `<` can end the
    element.
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return safe_in_script(text)


def safe_in_script(text: str) -> str:
    """JSON text without the characters that HTML or old JavaScript reads in another way."""
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
