"""Why a constructed latency is not the measured one: where the two part, as far as numbers tell."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_TOLD = math.log(1.05)
"""Ratios that are nearer to 1 explain nothing."""
_WIDE = 0.05
"""Half intervals above this may be all of a difference."""
_VALUES = "it waits for values between its operators"


def reason_of(
    name: str,
    measurements: Mapping[str, Mapping[str, Any]],
    chosen: tuple[int, str],
    others: Sequence[str],
) -> str:
    """Where a model's constructed latency and that of its call part: between its call and its
    graph, or between its graph and its bricks. Medians over measurements.
    """
    entries = [models[name] for models in measurements.values() if name in models]
    rows = [
        row
        for each in entries
        for row in each["rows"]
        if (row["granularity"], row["rule"]) == chosen
    ]
    notes = [note for each in entries for note in each.get("notes", [])]
    found = ["it is traced as another program"] * (name in others)
    found += [_VALUES] if any("depend on values" in note for note in notes) else []
    of_bricks = _of_modules(entries, chosen) if "modules" in chosen[1] else _of_bricks(rows)
    parts = (_known(rows), _between(rows), of_bricks, _of_gpu(rows))
    return "; ".join([*found, *filter(None, parts)]) or "less than 5 % in each of these"


def _known(rows: Sequence[Mapping[str, Any]]) -> str:
    """How well its ratio is known."""
    half = _median(row["normalised_ci"] for row in rows if row.get("normalised_ci"))
    return f"known to {half:.2f} only" if half is not None and half > _WIDE else ""


def _between(rows: Sequence[Mapping[str, Any]]) -> str:
    """Its graph against its call."""
    share = _median(row["graph_ms"] / row["measured_ms"] for row in rows if row.get("graph_ms"))
    if share is None or abs(math.log(share)) < _TOLD:
        return ""
    if share < 1:
        return f"Python between its operators is {1 - share:.0%} of a call"
    return f"its graph takes {share - 1:.0%} longer than a call"


def _of_bricks(rows: Sequence[Mapping[str, Any]]) -> str:
    """Its bricks against its graph."""
    known = [row for row in rows if row.get("graph_ms") and row.get("constructed_ms")]
    ratio = _median(row["constructed_ms"] / row["graph_ms"] for row in known)
    if ratio is None or abs(math.log(ratio)) < _TOLD:
        return ""
    each_us = _median(
        1e3 * (row["constructed_ms"] - row["graph_ms"]) / row["bricks"] for row in known
    )
    more = "longer" if ratio > 1 else "less"
    return (
        f"its {known[0]['bricks']} bricks take {abs(ratio - 1):.0%} {more} than its graph, "
        f"{abs(each_us or 0.0):.1f} us each"
    )


def _of_modules(entries: Sequence[Mapping[str, Any]], chosen: tuple[int, str]) -> str:
    """What bricks of operators alone would give, which have no Python between them."""
    plain = (chosen[0], chosen[1].removeprefix("modules, "))
    rows = [row for each in entries for row in each["rows"]]
    ratio = _median(row["normalised"] for row in rows if (row["granularity"], row["rule"]) == plain)
    return "" if ratio is None else f"bricks of operators give {ratio:.2f}"


def _of_gpu(rows: Sequence[Mapping[str, Any]]) -> str:
    """What the GPU does for its bricks against what it does in a call."""
    ratio = _median(value for row in rows if (value := by_device(row)) is not None)
    if ratio is None or abs(math.log(ratio)) < _TOLD:
        return ""
    return f"the GPU works {abs(ratio - 1):.0%} {'longer' if ratio > 1 else 'less'} for the bricks"


def _median(values: Iterable[float]) -> float | None:
    found = list(values)
    return statistics.median(found) if found else None


def by_device(row: Mapping[str, Any]) -> float | None:
    """How long the operations of its bricks keep the GPU, over how long the model's own do."""
    bricks_ms, model_ms = row.get("constructed_device_ms"), row.get("device_ms")
    return bricks_ms / model_ms if bricks_ms and model_ms else None
