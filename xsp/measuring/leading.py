"""Executions in which calls of compiled graphs were noted lead the kernels of compiled code to the
source layers that they come from, and tell what the host spends around them.

Their latencies are not used. What a kernel comes from holds for those of the rounds that have the
same place, since the work does not change from one to the next.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from torch import nn

from xsp.analysis.compiled.activities import CalledGraphs, led_activities, split_by_kind
from xsp.analysis.compiled.graph_calls import CALLS, code_around, graph_times, layer_spans_of
from xsp.analysis.spans.assembly import Vocabulary, assemble
from xsp.analysis.spans.sequence import activity_sequence
from xsp.capture.run import Run, call_of
from xsp.levels.layer.naming import is_leaf
from xsp.machine.compiler_internals import live_graph
from xsp.provenance.calls import Entries, GraphCalls
from xsp.provenance.graphs import explained
from xsp.provenance.recording import Recorder
from xsp.provenance.tables import described
from xsp.types import Level
from xsp.words.slugs import with_slug

if TYPE_CHECKING:
    from xsp.types import Tables

GENERATED_S = 5.0
"""What generating the code of a graph once more takes, often."""

TIMED_RUNS = 5
"""Executions of which the host's times around graphs are the medians."""


Graph = tuple[Any, str]
"""A compiled graph as it is called for one module: what ran, and the qualified name of the module
that was compiled, "" for the model itself and for a function. Modules that are alike can share what
was compiled for the first of them.
"""


@dataclass(frozen=True)
class Noted(CalledGraphs):
    """Calls of some runs of a rung, which `run` of CALLS counts from 0, and the graphs that were
    called, by number.
    """

    graphs: list[Graph]


@dataclass(frozen=True)
class Watched:
    """What was noted of the deepest rung, of five runs of MODEL and LAYER, and of the deepest rung
    without the compiler's CUDA graphs (None where there are none); how the target enters its code;
    and sentences on what could not be noted.
    """

    deepest: Noted
    timed: Noted
    singly: Noted | None
    entries: Entries
    doubts: tuple[str, ...] = ()


def noted(
    watch: GraphCalls,
    runs: list[Run],
    words: Vocabulary,
    model: nn.Module | None,
    known: Sequence[Graph] = (),
    entries: Entries | None = None,
) -> Noted:
    """What `watch` saw of these runs of one rung. `known` are graphs that have a number already;
    calls of others are left out where there are any. `entries` watched these runs too.
    """
    handles = {id(call.handle): call.handle for call in watch.calls}
    rows = [(-1, id(call.handle), call.thread, call.start_ns, call.end_ns) for call in watch.calls]
    calls, tables = _within(rows, runs), assemble(runs, words)
    keys = list(zip(calls["graph"].tolist(), _modules(model, calls, tables), strict=True))
    wanted = [(id(handle), name) for handle, name in known] or list(dict.fromkeys(keys))
    number = {key: place for place, key in enumerate(wanted)}
    calls["graph"] = np.array([number.get(key, -1) for key in keys], dtype=np.int64)
    calls = calls[calls["graph"] >= 0].reset_index(drop=True)
    copying, entered = (
        _within([(-1, -1, call.thread, call.start_ns, call.end_ns) for call in each], runs)
        for each in (watch.copying, entries.calls if entries is not None else [])
    )
    around = code_around(calls, entered, tables)
    graphs = list(known) or [(handles[handle], name) for handle, name in wanted]
    return Noted(calls, tables, copying, around, graphs)


def led(
    watched: Watched,
    recorder: Recorder,
    traced: Collection[Level],
    tables: Tables,
    may_go_on: Callable[[], bool],
) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """The tables `compiled_graphs`, `compiled_launches`, `compiled_origins`, `compiled_kernels` and
    `compiled_copies` of a profile with these tables, none where no compiled code ran; and sentences
    on what is missing.
    """
    deepest, timed = watched.deepest, watched.timed
    if not len(deepest.calls):
        return {}, []
    live = [live_graph(handle) for handle, _ in deepest.graphs]
    graphs = explained(live, recorder, may_go_on, watched.entries.modes)
    rows = described(
        [(each, name) for each, (_, name) in zip(graphs.graphs, deepest.graphs, strict=True)]
    )
    doubts = [*watched.doubts, *(not_led(each) for each in graphs.remarks)]
    if not rows.launches:
        return {}, [*doubts, not_led("the code of its graphs is not Python, and is not read")]
    phases = [graph.phase for graph in graphs.graphs]
    made = {
        "compiled_graphs": graph_times(timed.calls, timed.tables["spans"], phases),
        "compiled_launches": pd.DataFrame(rows.launches),
        "compiled_origins": pd.DataFrame(rows.origins).astype({"flops": "Int64"}),
    }
    if Level.KERNEL in traced:
        names = [activity_sequence(each)["name"].tolist() for each in (deepest.tables, tables)]
        if names[0] == names[1]:
            found = led_activities(deepest, watched.singly, made["compiled_launches"])
            made["compiled_kernels"], made["compiled_copies"] = split_by_kind(found)
        else:
            doubts.append(not_led("the run in which they were looked for ran other kernels"))
    return made, doubts


def not_led(why: str) -> str:
    """The sentence on kernels of compiled code of which the source is not known."""
    sentence = f"kernels of compiled code are not all led to source layers: {why}"
    return with_slug("compiled-not-led", sentence)


def _within(rows: Sequence[tuple[int, ...]], runs: list[Run]) -> pd.DataFrame:
    """Rows of CALLS that lie in these runs, in order."""
    calls = pd.DataFrame(rows, columns=list(CALLS), dtype=np.int64)
    calls["run"] = _run_of(calls["start_ns"].to_numpy(), runs)
    return calls[calls["run"] >= 0].sort_values(["run", "start_ns"], ignore_index=True)


def _run_of(start_ns: npt.NDArray[np.int64], runs: list[Run]) -> npt.NDArray[np.int64]:
    """The run in whose model calls each stamp lies, -1 for none: settling runs, for example."""
    run = np.full(len(start_ns), -1, dtype=np.int64)
    for number, each in enumerate(runs):
        run[call_of(start_ns, each.model_calls) >= 0] = number
    return run


def _modules(model: nn.Module | None, calls: pd.DataFrame, tables: Tables) -> list[str]:
    """For each call of a graph the qualified name of the module that was compiled, "" for the model
    itself and for a function.
    """
    if model is not None and is_leaf(model):
        return [""] * len(calls)
    spans, layers = tables["spans"], tables["layers"]
    forward = layers["forward"].to_numpy()
    origin = layers.iloc[np.where(forward >= 0, forward, np.arange(len(layers)))]
    known = origin["name"].where((origin["kind"] == "module").to_numpy(), "").tolist()
    at = layer_spans_of(calls, spans)
    layer = np.append(spans["detail"].to_numpy(), -1)[at]
    # Outside of every layer nothing but the graph itself tells.
    names = pd.Series([known[each] if each >= 0 else None for each in layer.tolist()], dtype=object)
    names = names.fillna(names.groupby(calls["graph"]).transform("first")).fillna("")
    called = tables["modules"]
    # One module with others below it, and none around it, is the model: names begin below it, as
    # they would if it were not compiled.
    is_model = called["is_leaf"].all() and names.nunique() == 1
    return [""] * len(calls) if is_model else names.tolist()
