"""The host's time of every model call, divided without rest: each instant belongs to one layer, or
lies between layers.

Time outside every layer (Python, a loader, waiting for the device) belongs to the innermost module
around the layers before and after it: only layers are stamped. What comes before the first layer
and after the last one is the model's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile

import numpy as np
import numpy.typing as npt
import pandas as pd

from xsp.analysis.spans.ancestors import model_spans
from xsp.analysis.spans.intervals import innermost
from xsp.analysis.spans.outside import stands_for_outside
from xsp.analysis.spans.sums import distinct
from xsp.types import IntArray, Level, Tables

Ints = npt.NDArray[np.int64]


def host_turns(tables: Tables, spans: pd.DataFrame) -> pd.DataFrame:
    """Pieces of the model calls in order of time.

    Columns: run, call (row of the MODEL span), layer_span (row of the LAYER span that the piece
    belongs to, -1 between layers), module (categorical: qualified name of the module that a piece
    between layers belongs to, "" for the model itself and for pieces of layers), start_ns, end_ns.

    Where layers of several threads are open at once, the one that began last has the time: a
    backward pass on autograd's thread, not the `backward()` that waits for it. `spans` are the rows
    of the spans table to divide, with the times to use.
    """
    calls = spans[spans["level"] == Level.MODEL]
    layers = _layers(tables, spans)
    call = np.searchsorted(calls.index, model_spans(tables["spans"], layers.index.to_numpy()))
    axis = _Axis(calls)
    opens, closes = axis.place(call, layers["start_ns"]), axis.place(call, layers["end_ns"])
    lasts = closes > opens
    layers, opens, closes = layers[lasts], opens[lasts], closes[lasts]
    every = distinct(np.concatenate([axis.opens, axis.closes, opens, closes]))
    start, end = every[:-1], every[1:]
    number = np.searchsorted(axis.opens, start, side="right") - 1
    inside = end <= axis.closes[np.maximum(number, 0)]
    start, end, number = start[inside], end[inside], number[inside]
    owner = _latest_open(layers["thread"].to_numpy(), opens, closes, start, end)
    modules = _Modules.of(tables["layers"])
    return pd.DataFrame(
        {
            "run": calls["run"].to_numpy()[number],
            "call": calls.index.to_numpy()[number],
            "layer_span": np.append(layers.index.to_numpy(), -1)[owner],
            "module": _module_between(owner, number, layers["detail"].to_numpy(), modules),
            "start_ns": start - axis.shift[number],
            "end_ns": end - axis.shift[number],
        }
    )


def _layers(tables: Tables, spans: pd.DataFrame) -> pd.DataFrame:
    layers = spans[spans["level"] == Level.LAYER]
    outside = stands_for_outside(tables["layers"])[layers["detail"].to_numpy()]
    layers = layers.loc[~outside]
    timed: pd.DataFrame = layers.assign(end_ns=layers["start_ns"] + layers["duration_ns"])
    return timed


class _Axis:
    """Model calls laid end to end, so that calls that overlap in time do not mix."""

    def __init__(self, calls: pd.DataFrame) -> None:
        start = calls["start_ns"].to_numpy().astype(np.int64)
        length = np.maximum(calls["duration_ns"].to_numpy().astype(np.int64), 0)
        self.opens: Ints = (np.cumsum(length + 1) - (length + 1)).astype(np.int64)
        self.closes: Ints = self.opens + length
        self.shift: Ints = self.opens - start

    def place(self, call: IntArray, time_ns: pd.Series[int]) -> Ints:
        """Times on the common axis, clipped to their call."""
        on_axis = time_ns.to_numpy().astype(np.int64) + self.shift[call]
        clipped: Ints = np.clip(on_axis, self.opens[call], self.closes[call])
        return clipped


def _latest_open(
    thread: IntArray, opens: IntArray, closes: IntArray, start: IntArray, end: IntArray
) -> Ints:
    """For each piece the layer open on any thread that began last, -1 for none."""
    owner = np.full(len(start), -1, dtype=np.int64)
    begun = np.full(len(start), np.iinfo(np.int64).min)
    for one in distinct(thread).tolist():
        asked = np.full(len(start), one, dtype=thread.dtype)
        found = innermost(thread, opens, closes, asked, start, end)
        later = (found >= 0) & (np.append(opens, 0)[found] >= begun)
        owner[later] = found[later]
        begun[later] = opens[found[later]]
    return owner


@dataclass(frozen=True)
class _Modules:
    """Distinct names of the modules of `layers`, and the number of each row's."""

    names: list[str]
    of_layer: Ints

    @classmethod
    def of(cls, layers: pd.DataFrame) -> _Modules:
        code, names = pd.factorize(layers["module"].to_numpy(dtype=object))
        return cls([str(name) for name in names], code.astype(np.int64))


def _module_between(
    owner: Ints, call: IntArray, detail: IntArray, known: _Modules
) -> pd.Categorical[str]:
    """The innermost module around the layers before and after each piece that no layer has; layers
    are rows of `detail`, which says which layer each is.

    Two pieces without a layer never touch, so that the neighbours of one in its call are layers'.
    """
    between = np.flatnonzero(owner < 0)
    between = between[(between > 0) & (between < len(owner) - 1)]
    same_call = (call[between - 1] == call[between]) & (call[between + 1] == call[between])
    between = between[same_call]
    code, size = known.of_layer[detail], len(known.names)
    pair = code[owner[between - 1]] * size + code[owner[between + 1]]
    place, pairs = pd.factorize(pair)
    shared = [_shared(known.names[one // size], known.names[one % size]) for one in pairs.tolist()]
    of_pair, names = pd.factorize(np.array(["", *shared], dtype=object))
    result = np.zeros(len(owner), dtype=np.int64)
    result[between] = of_pair[1:][place]
    kinds: pd.Index[str] = pd.Index([str(name) for name in names])
    return pd.Categorical.from_codes(result, kinds)


def _shared(one: str, other: str) -> str:
    """`a.b` of `a.b.c` and `a.b.d.e`."""
    pairs = zip(one.split("."), other.split("."), strict=False)
    return ".".join(part for part, same in takewhile(lambda pair: pair[0] == pair[1], pairs))
