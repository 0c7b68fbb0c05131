"""How differences between two profiles are said: short phrases with the numbers in them."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pandas as pd

from xsp.words.labels import printable, shapes, shorten, telling_kernel_name

_NAMES = 4
_LONG = 90


def layer(name: str, kind: str, phase: str = "forward") -> str:
    """A layer with its type, or the backward pass of it: `fc1` (Linear)."""
    label = f"`{printable(name)}`" + (
        f" ({kind})" if kind and not name.endswith(f"::{kind}") else ""
    )
    return f"the backward pass of {label}" if phase == "backward" else label


def list_names(names: Sequence[str]) -> str:
    """Names in backticks, the first few of many."""
    shown = [f"`{printable(name)}`" for name in names[:_NAMES]]
    return ", ".join(shown) + (f" and {len(names) - _NAMES} more" if len(names) > _NAMES else "")


def milliseconds(value: float) -> str:
    """`0.00123 ms`, `12.3 ms`: three digits that matter."""
    return f"{value:.3g} ms" if value < 1000 else f"{value:.0f} ms"


def bytes_(value: float) -> str:
    """`12 B`, `4.2 kB`, `1.3 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.4g} {unit}"


def percent(ratio: float) -> str:
    """`+4.2 %` of a ratio of 1.042, `24 times as long` of 24."""
    change = round(ratio - 1, 3) + 0.0  # no minus before a zero
    return f"{change:+.1%}".replace("%", " %") if ratio < 10 else f"{ratio:.0f} times as long"


def times(a_ms: float, b_ms: float, ratio: float, low: float, high: float) -> str:
    """`0.51 ms instead of 0.43 ms (+18.3 %, 95 % interval +17.2 % to +20.1 %)`."""
    interval = f", 95 % interval {percent(low)} to {percent(high)}" if low == low else ""  # noqa: PLR0124 # NaN
    return f"{milliseconds(b_ms)} instead of {milliseconds(a_ms)} ({percent(ratio)}{interval})"


def tensors(shape_text: str, type_text: str) -> str:
    """`8×64 float16`: shapes and types as the tables have them."""
    try:
        types = [str(each) for each in json.loads(type_text.replace("'", '"'))] if type_text else []
    except ValueError:
        types = []
    kinds = list(dict.fromkeys(types))
    return " ".join(part for part in (shapes(shape_text), "/".join(kinds)) if part) or "nothing"


def launches(rows: pd.DataFrame) -> list[str]:
    """Phrases about what a layer launches now and did not before, and the other way round; see
    `Differences`.
    """
    return [
        phrase
        for what in ("kernel", "copy", "set", "library call", "operator")
        for phrase in _of_kind(what, rows[rows["what"] == what])
    ]


def _of_kind(what: str, rows: pd.DataFrame) -> list[str]:
    more, less = rows[rows["b"] > rows["a"]], rows[rows["b"] < rows["a"]]
    if not len(rows):
        return []
    if what in ("copy", "set") or not len(more) or not len(less):
        return (
            [_counted(what, more), _counted(what, less)]
            if len(more) and len(less)
            else [_counted(what, rows)]
        )
    new, gone = _names(what, more["name"].tolist()), _names(what, less["name"].tolist())
    grown = int((more["b"] - more["a"]).sum()) - int((less["a"] - less["b"]).sum())
    if grown == 0:
        return [f"{what} {gone} was replaced by {new}"]
    return [f"{what} {gone} broke up into {new}" if grown > 0 else f"{what}s {gone} became {new}"]


def _counted(what: str, rows: pd.DataFrame) -> str:
    """`2 more copies (3 instead of 1)` or `1 more kernel, `add` (1 instead of 0)`."""
    before, now = int(rows["a"].sum()), int(rows["b"].sum())
    plural = {"copy": "copies"}.get(what, f"{what}s")
    which = what if abs(now - before) == 1 else plural
    name = (
        f", {_names(what, rows['name'].tolist())}"
        if what in ("kernel", "library call", "operator")
        else ""
    )
    return (
        f"{abs(now - before)} {'more' if now > before else 'fewer'} {which}{name} ({now} instead "
        f"of {before})"
    )


def _names(what: str, names: list[str]) -> str:
    if what != "kernel":
        return list_names(names)
    short = [telling_kernel_name(name) for name in names]
    unclear = len(set(short)) < len(short)
    return list_names(
        [
            shorten(full, _LONG) if unclear else brief
            for full, brief in zip(names, short, strict=True)
        ]
    )
