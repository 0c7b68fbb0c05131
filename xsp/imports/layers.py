"""From the ranges of a foreign trace to layers with names, and the modules around them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from xsp.analysis.spans.align import occurrence
from xsp.analysis.spans.ancestors import nearest_above
from xsp.imports.nesting import parents

Ints = npt.NDArray[np.int64]

_PATH = re.compile(r"\w+(\.\w+)*")
_SCOPED = re.compile(r"\w+(::\w+)*")


@dataclass(frozen=True, eq=False)
class Layers:
    """`events` (thread, start_ns, end_ns, code) are the timed layers, `rows` what each code stands
    for, in order; `modules` are the rows of the capture's table. `model` is the module around
    everything, if there is one.
    """

    events: pd.DataFrame
    rows: list[dict[str, Any]]
    modules: list[dict[str, Any]]
    model: str | None


def layers_of(ranges: pd.DataFrame, window: Ints, windows: int) -> Layers:
    """Layers and modules of the ranges that begin in a window (`window` >= 0, an index of `windows`
    many).
    """
    inside = ranges[window >= 0].reset_index(drop=True)
    place = np.full(len(ranges) + 1, -1, dtype=np.int64)
    place[np.flatnonzero(window >= 0)] = np.arange(len(inside))
    inside["forward"] = place[inside["forward"]]
    inside["window"] = window[window >= 0]
    above = parents(*(inside[name].to_numpy() for name in ("thread", "start_ns", "end_ns")))
    has_inner = np.zeros(len(inside), dtype=bool)
    has_inner[above[above >= 0]] = True
    is_module = inside["may_enclose"].to_numpy() & has_inner
    around = nearest_above(above, is_module)
    label = inside["name"].to_numpy(dtype=object)
    model = _model(label, is_module, around, inside)
    path = _paths(label, is_module, around, model)
    named = _named(inside, is_module, around, path)
    return Layers(*_coded(named, is_module), _module_rows(named, is_module, windows), model)


def _model(
    label: npt.NDArray[Any], is_module: npt.NDArray[np.bool_], around: Ints, inside: pd.DataFrame
) -> str | None:
    """The one name of all outermost modules, if no forward layer lies outside of them."""
    outermost = {str(name) for name in label[is_module & (around < 0)]}
    outside = (
        ~is_module
        & (around < 0)
        & (inside["phase"] == "forward").to_numpy()
        & ~inside["is_named"].to_numpy()
    )
    return outermost.pop() if len(outermost) == 1 and not outside.any() else None


def _paths(
    label: npt.NDArray[Any], is_module: npt.NDArray[np.bool_], around: Ints, model: str | None
) -> npt.NDArray[Any]:
    """Qualified name of every module, without the model's own name."""
    path = np.full(len(label), "", dtype=object)
    depth = np.zeros(len(label), dtype=np.int64)
    above = around.copy()
    while (deeper := above >= 0).any():
        depth += deeper
        above = np.where(deeper, around[above], -1)
    for level in range(int(depth[is_module].max(initial=-1)) + 1):
        here = np.flatnonzero(is_module & (depth == level))
        outer = np.where(around[here] >= 0, path[around[here]], "")
        pairs = list(zip(outer.tolist(), label[here].tolist(), strict=True))
        joined = {pair: _joined(*pair) for pair in set(pairs)}
        path[here] = [
            "" if level == 0 and name == model else joined[outer_path, name]
            for outer_path, name in pairs
        ]
    return path


def _joined(outer: str, name: str) -> str:
    """`name` below `outer`. A dot parts names of modules, so that in other names it becomes a
    colon.
    """
    plain = name if _PATH.fullmatch(name) else name.replace(".", ":")
    return plain if not outer or plain.startswith(f"{outer}.") else f"{outer}.{plain}"


def _named(
    inside: pd.DataFrame, is_module: npt.NDArray[np.bool_], around: Ints, path: npt.NDArray[Any]
) -> pd.DataFrame:
    """The ranges with the module around them and full names; equal names in one call of a module
    are numbered.
    """
    outer = np.where(around >= 0, path[around], "")
    complete = inside["is_named"].to_numpy()
    outer = np.where(complete, inside["module"].to_numpy(dtype=object), outer)
    kind, label = inside["kind"].to_numpy(dtype=object), inside["name"].to_numpy(dtype=object)
    is_call = kind == "module"
    key = pd.factorize(pd.MultiIndex.from_arrays([inside["window"], around, label]))[0]
    number = np.where(
        is_call | complete, 0, occurrence(np.where(is_module, -1 - np.arange(len(key)), key))
    )
    triples = list(zip(outer.tolist(), label.tolist(), kind.tolist(), number.tolist(), strict=True))
    names = {triple: _layer_name(*triple) for triple in set(triples)}
    name = np.array([names[triple] for triple in triples], dtype=object)
    name = np.where(complete, label, np.where(is_module, path, name))
    forward = inside["forward"].to_numpy()
    # Backward work has the name of the layer that caused it, as in xsp's own captures.
    led_back = (forward >= 0) & ~complete
    name[led_back], outer[led_back] = name[forward[led_back]], outer[forward[led_back]]
    return inside.assign(name=name, module=outer)


def _layer_name(outer: str, label: str, kind: str, number: int) -> str:
    if kind == "module":
        return _joined(outer, label)
    bare = label.rpartition("::")[2] if _SCOPED.fullmatch(label) else label
    return f"{outer}::{bare}" + (f"_{number}" if number else "")


def _coded(
    named: pd.DataFrame, is_module: npt.NDArray[np.bool_]
) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    layers = named[~is_module].sort_values("start_ns", kind="stable")
    key = pd.factorize(
        pd.MultiIndex.from_arrays([layers["window"], layers["name"], layers["phase"]])
    )[0]
    again = occurrence(key)
    code = pd.factorize(pd.MultiIndex.from_arrays([layers["name"], layers["phase"], again]))[
        0
    ].astype(np.int64)
    layers = layers.assign(code=code)
    of_range = pd.Series(code, index=layers.index)
    first = layers.drop_duplicates("code")
    forward = of_range.reindex(first["forward"]).fillna(-1).to_numpy(dtype=np.int64)
    wanted = ["code", "name", "type", "kind", "module", "phase", "input_shapes", "input_dtypes"]
    unknown: dict[str, Any] = {"output_shapes": [], "output_dtypes": [], "parameter_bytes": 0}
    rows = [
        {str(name): value for name, value in row.items()} | unknown | {"forward": int(of_row)}
        for row, of_row in zip(first[wanted].to_dict("records"), forward, strict=True)
    ]
    return layers[["window", "thread", "start_ns", "end_ns", "code"]], rows


def _module_rows(
    named: pd.DataFrame, is_module: npt.NDArray[np.bool_], windows: int
) -> list[dict[str, Any]]:
    called = named[
        is_module | (named["kind"] == "module").to_numpy() & ~named["is_named"].to_numpy()
    ]
    is_leaf = pd.Series(~is_module, index=named.index)
    return [
        {
            "name": name,
            "type": str(calls["type"].iloc[0]),
            "parameter_bytes": 0,
            "is_leaf": bool(is_leaf[calls.index[0]]),
            "calls": max(round(len(calls) / windows), 1),
        }
        for name, calls in called.groupby("name", sort=False)
        if name
    ]
