"""Which layers a difference between two profiles comes from, the most guilty first.

A layer whose inputs are what they were and that does something else is a cause; one that differs
because its inputs do is a consequence. A structural change comes before a slow-down, because it is
certain and can be looked up in the code.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import pandas as pd

from xsp.comparing import phrases
from xsp.comparing.alignment import pattern
from xsp.comparing.differences import APPEARED, SAME, VANISHED, Differences
from xsp.comparing.verdict import IMPROVED, REGRESSION
from xsp.words.labels import printable
from xsp.words.numbers import quantity

Row = dict[Hashable, Any]

_MOST_CHANGES = 4
"""What the sentence about one layer names."""
MATERIAL = 0.02
"""Share of the model's latency from which on the time that a change costs counts more than its
place.
"""


class Kind(IntEnum):
    """What a cause is, the most telling first."""

    OWN = 0
    """The layer itself is another: its type, its parameters, their precision."""
    STRUCTURE = 1
    """A layer appeared, vanished or was replaced, or makes other outputs of the same inputs."""
    WORK = 2
    """The layer does the same in another way: kernels, copies, waits, library calls, memory."""
    SLOWER = 3
    """Significantly slower, without a visible change."""
    ASIDE = 4
    """Another kernel that is no slower, less memory."""
    FASTER = 5
    """Significantly faster, without a visible change."""
    CONSEQUENCE = 6
    """Changed because its inputs are."""
    RENAMED = 7


@dataclass(frozen=True)
class Cause:
    """One change: its kind, the layers (paths in the candidate, or in the baseline for what
    vanished), a sentence, where it comes in the order of layers, and ms that it costs (NaN where
    not known).
    """

    kind: Kind
    paths: tuple[str, ...]
    sentence: str
    position: float
    cost_ms: float


def causes(found: Differences, latency_ms: float) -> list[Cause]:
    """All causes, the most guilty first; `latency_ms` is the baseline's, NaN where times are not
    compared.
    """
    layers = found.pairs[found.pairs["level"] == "LAYER"].sort_values("position", kind="stable")
    both = layers[(layers["row_a"] >= 0) & (layers["row_b"] >= 0)]
    launched = dict(list(found.launched.groupby("pair")))
    every = [
        *_replaced(layers, found.pairs),
        *(
            cause
            for index, row in zip(both.index.tolist(), both.to_dict("records"), strict=True)
            for cause in _of_layer(row, launched.get(index), found.counts)
        ),
        *_renamed(both),
    ]
    return sorted(
        every, key=lambda cause: (cause.kind, -_weight(cause, latency_ms), cause.position)
    )


def _weight(cause: Cause, latency_ms: float) -> float:
    """What a change costs where that is much of the model's latency, else 0: small costs are noise,
    order is not.
    """
    if not np.isfinite(cause.cost_ms):
        return 0.0
    if cause.kind is Kind.FASTER:
        return -cause.cost_ms
    return (
        cause.cost_ms if cause.kind is Kind.SLOWER or cause.cost_ms > MATERIAL * latency_ms else 0.0
    )


def _of_layer(row: Row, launched: pd.DataFrame | None, counts: Sequence[str]) -> list[Cause]:
    """Causes in a layer that both sides have; none where nothing changed and it is no slower."""
    own, made, work = _own(row), _made(row), _work(row, launched, counts)
    is_slower, is_faster = row["verdict"] == REGRESSION, row["verdict"] == IMPROVED
    if own or made or work:
        costs = bool(work) and _costs(row, launched)
        kind = _kind_of_change(row, counts, bool(own), bool(made), bool(work), costs)
    elif is_slower or is_faster:
        kind = Kind.SLOWER if is_slower else Kind.FASTER
    else:
        return []
    label = phrases.layer(row["name_b"], row["type_b"], row["phase"])
    took = phrases.times(row["a_ms"], row["b_ms"], row["ratio"], row["low"], row["high"])
    cost = float(row["b_ms"] - row["a_ms"]) if is_slower or is_faster else np.nan
    if kind in (Kind.SLOWER, Kind.FASTER):
        where = "on the GPU" if row["metric"] == "device" else "on the host"
        how = "slower" if kind is Kind.SLOWER else "faster"
        sentence = f"{label} is {how}: it takes {took} {where}."
    else:
        timed = f"; it takes {took}" if np.isfinite(cost) else ""
        changes = ", ".join([*own, *made, *work][:_MOST_CHANGES])
        sentence = f"{label} changed: {changes}{timed}."
    position = float(row["position"])
    return [Cause(kind, (row["path_b"],), _capitalised(sentence), position, cost)]


def _kind_of_change(
    row: Row, counts: Sequence[str], own: bool, made: bool, work: bool, costs: bool
) -> Kind:
    """What a layer that changed is: changed itself (`own`), in what it makes (`made`), or in what
    it executes (`work`, which `costs`); a consequence where it was given something else.
    """
    waits, copies = (
        name in counts and row[f"{name}_b"] > row[f"{name}_a"]
        for name in ("synchronizations", "copies")
    )
    fed_alike = _same(row, "input_shapes") and _same(row, "input_dtypes")
    shaped_alike = _same(row, "input_shapes") and _same(row, "output_shapes")
    if own and (fed_alike or shaped_alike or not _same(row, "type")):
        return Kind.OWN
    if made and fed_alike:
        return Kind.STRUCTURE
    if not work or not (fed_alike or waits or copies):
        return Kind.CONSEQUENCE
    return Kind.WORK if waits or copies or costs else Kind.ASIDE


def _capitalised(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]


def _same(row: Row, name: str) -> bool:
    return bool(row[f"{name}_a"] == row[f"{name}_b"])


def _own(row: Row) -> list[str]:
    """What is said about the layer's type and parameters."""
    said = []
    if not _same(row, "type"):
        said.append(f"{row['type_a'] or 'nothing'} became {row['type_b'] or 'nothing'}")
    if not _same(row, "parameter_bytes"):
        now, before = (phrases.bytes_(row[f"parameter_bytes_{side}"]) for side in "ba")
        said.append(f"{now} of parameters instead of {before}")
    return said


def _made(row: Row) -> list[str]:
    """What is said about inputs, outputs and the number of calls."""
    said = []
    for side in ("input", "output"):
        before, now = (
            phrases.tensors(row[f"{side}_shapes_{which}"], row[f"{side}_dtypes_{which}"])
            for which in ("a", "b")
        )
        if before != now:
            said.append(f"its {side} is {now} instead of {before}")
    if not _same(row, "calls"):
        said.append(f"it is called {row['calls_b']:.0f} times instead of {row['calls_a']:.0f}")
    return said


def _work(row: Row, launched: pd.DataFrame | None, counts: Sequence[str]) -> list[str]:
    """What is said about waits, kernels, copies, library calls and memory."""
    said = []
    if "synchronizations" in counts and not _same(row, "synchronizations"):
        now, before = row["synchronizations_b"], row["synchronizations_a"]
        said.append(f"the host waits in it for the device {now:.0f} times instead of {before:.0f}")
    if launched is not None:
        said += phrases.launches(launched)
    for name, what in (("copied_bytes", "copies"), ("allocated_bytes", "allocates")):
        if name in counts and not _same(row, name):
            said.append(
                f"it {what} {phrases.bytes_(row[f'{name}_b'])} instead of "
                f"{phrases.bytes_(row[f'{name}_a'])}"
            )
    return said


def _costs(row: Row, launched: pd.DataFrame | None) -> bool:
    """Whether other work is more: slower, or more kernels, library calls or bytes."""
    more = launched is not None and int(launched["b"].sum()) > int(launched["a"].sum())
    allocates = row["allocated_bytes_b"] > row["allocated_bytes_a"]
    return bool(
        row["verdict"] == REGRESSION
        or more
        or (launched is None and allocates)
        or row["verdict"] == ""
    )


def _replaced(layers: pd.DataFrame, pairs: pd.DataFrame) -> list[Cause]:
    """Layers that appeared or vanished, those between the same two neighbours together."""
    lone = layers["change"].isin([APPEARED, VANISHED])
    group = (~lone).cumsum()[lone]
    parts = layers[lone].groupby([group, layers.loc[lone, "phase"]], sort=False)
    return [_replacement(part, pairs) for _, part in parts]


def _replacement(part: pd.DataFrame, pairs: pd.DataFrame) -> Cause:
    new, gone = part[part["change"] == APPEARED], part[part["change"] == VANISHED]
    sentence = _replacement_sentence(new, gone, pairs)
    before_ms, now_ms = float(gone["a_ms"].sum()), float(new["b_ms"].sum())
    cost_ms = np.nan
    if part[["a_ms", "b_ms"]].notna().any(axis=None):
        cost_ms = now_ms - before_ms
        times = []
        if len(new):
            times.append(f"{phrases.milliseconds(now_ms)} now")
        if len(gone):
            times.append(f"{phrases.milliseconds(before_ms)} before")
        sentence += f" ({', '.join(times)})"
    paths = (*new["path_b"].tolist(), *gone["path_a"].tolist())
    position = float(part["position"].min())
    return Cause(Kind.STRUCTURE, paths, f"{_capitalised(sentence)}.", position, cost_ms)


def _replacement_sentence(new: pd.DataFrame, gone: pd.DataFrame, pairs: pd.DataFrame) -> str:
    there, before = _labels(new, pairs, "b"), _labels(gone, pairs, "a")
    if len(gone) and len(new):
        verb = "was" if _verb(before, len(gone)) == "is" else "were"
        return f"{before} {verb} replaced by {there}"
    if len(new):
        return f"{there} {_verb(there, len(new))} new"
    return f"{before} {_verb(before, len(gone))} gone"


def _verb(label: str, layers: int) -> str:
    return "is" if layers == 1 or label.startswith("the module") else "are"


def _labels(part: pd.DataFrame, pairs: pd.DataFrame, side: str) -> str:
    """The layers; one module instead, if it has appeared or vanished with all of them."""
    if not len(part):
        return ""
    names, kinds, phase = (
        part[f"name_{side}"].tolist(),
        part[f"type_{side}"].tolist(),
        str(part["phase"].iloc[0]),
    )
    whole = _module_of(names, pairs, side)
    if whole and len(names) > 1:
        return f"the module {whole} with {_listed_few(names)}"
    if len(names) == 1:
        return phrases.layer(names[0], kinds[0], phase)
    return ("the backward pass of " if phase == "backward" else "") + phrases.list_names(names)


def _listed_few(names: Sequence[str]) -> str:
    """Up to two names, the rest counted."""
    rest = len(names) - 2
    return phrases.list_names(names[:2]) + (
        f" and {quantity(rest, 'more layer')}" if rest > 0 else ""
    )


def _module_of(names: Sequence[str], pairs: pd.DataFrame, side: str) -> str:
    """The outermost unmatched module that all these layers lie in, with its type; "" if there is
    none.
    """
    modules = pairs[(pairs["level"] == "MODULE") & pairs["change"].isin([APPEARED, VANISHED])]
    for name, kind in zip(
        modules[f"name_{side}"].tolist(), modules[f"type_{side}"].tolist(), strict=True
    ):
        if isinstance(name, str) and all(
            each.startswith((f"{name}.", f"{name}::")) for each in names
        ):
            return phrases.layer(name, kind)
    return ""


def _renamed(both: pd.DataFrame) -> list[Cause]:
    """New names that no inserted neighbour explains, once for each module that was renamed."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in both.to_dict("records"):
        old, new = str(row["name_a"]), str(row["name_b"])
        if old != new and pattern(old) != pattern(new):
            found.setdefault(_differing(old, new), []).append(row)
    return [_renaming(old, new, rows) for (old, new), rows in found.items()]


def _renaming(old: str, new: str, rows: Sequence[Row]) -> Cause:
    rest = "; nothing else about it changed" if all(row["change"] == SAME for row in rows) else ""
    sentence = f"`{printable(old)}` is called `{printable(new)}` now{rest}."
    return Cause(
        Kind.RENAMED,
        tuple(row["path_b"] for row in rows),
        sentence,
        float(rows[0]["position"]),
        np.nan,
    )


def _differing(old: str, new: str) -> tuple[str, str]:
    """Both names without the parts at the end that they share."""
    mine, other = old.split("."), new.split(".")
    while min(len(mine), len(other)) > 1 and mine[-1] == other[-1]:
        mine.pop()
        other.pop()
    return ".".join(mine), ".".join(other)
