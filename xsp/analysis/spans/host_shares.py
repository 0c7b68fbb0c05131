"""What of the host's time each node has for itself, run by run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from xsp.analysis.spans.hierarchy import Hierarchy
from xsp.analysis.spans.host_turns import host_turns
from xsp.analysis.spans.latency_parts import LatencyParts
from xsp.analysis.spans.library_turns import library_turns, operator_turns
from xsp.analysis.spans.rungs import runs_of
from xsp.analysis.spans.sums import sum_by_run
from xsp.analysis.spans.timed_events import timed_events
from xsp.types import Level, Tables

Array = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class HostShares:
    """Matrices (runs, nodes) in ns; of each run, what a node has without its children.

    `operators` and `library` are None where these are read from the same runs as layers: `by_node`
    then has them, and what they lie in without them. Where they are read from the runs of another
    rung, they are here, and what they lie in has their time too.
    """

    by_node: Array
    library: Array | None
    operators: Array | None = None


def host_shares(
    tree: Hierarchy, tables: Tables, parts: LatencyParts, timed: pd.DataFrame | None
) -> HostShares:
    """Of the corrected timeline, whose spans are `timed`, if there is one; else layers, operators
    and library calls each from the rung whose deepest level they are.
    """
    if timed is not None:
        return _together(tree, tables, timed, parts.host, parts.runs)
    of_layers, every = runs_of(tables["runs"], Level.LAYER)["run"].to_numpy(), tables["spans"]
    of_operators = runs_of(tables["runs"], Level.OP)["run"].to_numpy()
    calls = timed_events(tables, Level.LIBRARY)
    spans = every[every["run"].isin(of_layers)]
    pieces = host_turns(tables, spans) if len(of_layers) else parts.host.iloc[:0]
    if not calls.alone and np.array_equal(of_layers, calls.of):
        return _together(tree, tables, spans, pieces, of_layers)
    by_node = _pieces_by_node(tree, pieces, of_layers)
    operators = None
    if len(of_operators) and np.array_equal(of_layers, of_operators):
        by_node += _operators(tree, tables, spans, pieces, of_layers)
    elif len(of_operators):
        operators = _timed_operators(tree, tables, of_operators)
    node = tree.of_span[calls.row]
    library = sum_by_run(calls.run, node, calls.duration_ns, len(tree.nodes), calls.of)
    return HostShares(by_node, library, operators)


def _together(
    tree: Hierarchy, tables: Tables, spans: pd.DataFrame, pieces: pd.DataFrame, runs: Ints
) -> HostShares:
    by_node = _pieces_by_node(tree, pieces, runs)
    level = spans["level"].to_numpy()
    if (level == Level.OP).any():
        by_node += _operators(tree, tables, spans, pieces, runs)
    if (level == Level.LIBRARY).any():
        by_node += _library_calls(tree, tables, spans, pieces, runs)
    return HostShares(by_node, None)


def _library_calls(
    tree: Hierarchy, tables: Tables, spans: pd.DataFrame, pieces: pd.DataFrame, runs: Ints
) -> Array:
    """What library calls add to the time of their nodes, and take from what they lie in."""
    size, calls = len(tree.nodes), library_turns(tables, spans, pieces)
    calls = calls[calls["piece"] >= 0]
    run, duration = calls["run"].to_numpy(), calls["duration_ns"].to_numpy()
    row = calls["row"].to_numpy()
    above = tables["spans"]["parent"].to_numpy()[row]
    in_operator = tables["spans"]["level"].to_numpy()[above] == Level.OP
    of_piece = nodes_of_pieces(tree, pieces)[calls["piece"]]
    around = np.where(in_operator, tree.of_span[above], of_piece)
    shares = sum_by_run(run, tree.of_span[row], duration, size, runs)
    return shares - sum_by_run(run, around, duration, size, runs)


def _operators(
    tree: Hierarchy, tables: Tables, spans: pd.DataFrame, pieces: pd.DataFrame, runs: Ints
) -> Array:
    """What operators add to the time of their nodes, and take from what they lie in."""
    size = len(tree.nodes)
    found = operator_turns(tables, spans, pieces)
    found = found[found["piece"] >= 0]
    outer = found[found["is_outermost"]]
    around = nodes_of_pieces(tree, pieces)[outer["piece"]]
    run, node = found["run"].to_numpy(), tree.of_span[found["row"]]
    shares = sum_by_run(run, node, found["own_ns"].to_numpy(), size, runs)
    taken = outer["duration_ns"].to_numpy()
    return shares - sum_by_run(outer["run"].to_numpy(), around, taken, size, runs)


def _timed_operators(tree: Hierarchy, tables: Tables, runs: Ints) -> Array:
    """What operators have without those inside them, in runs that trace nothing deeper."""
    spans = tables["spans"][tables["spans"]["run"].isin(runs)]
    found = operator_turns(tables, spans, host_turns(tables, spans))
    found = found[found["piece"] >= 0]
    run, node = found["run"].to_numpy(), tree.of_span[found["row"]]
    return sum_by_run(run, node, found["own_ns"].to_numpy(), len(tree.nodes), runs)


def _pieces_by_node(tree: Hierarchy, pieces: pd.DataFrame, runs: Ints) -> Array:
    length = (pieces["end_ns"] - pieces["start_ns"]).to_numpy()
    node = nodes_of_pieces(tree, pieces)
    return sum_by_run(pieces["run"].to_numpy(), node, length, len(tree.nodes), runs)


def nodes_of_pieces(tree: Hierarchy, pieces: pd.DataFrame) -> Ints:
    """The layer of each piece of `host_turns`, or else the module or model that it belongs to."""
    layer_span = pieces["layer_span"].to_numpy()
    between = pieces["module"].cat
    names = between.categories
    modules = np.array([tree.module_node(str(name)) for name in names], dtype=np.int64)
    of_module: Ints = modules[between.codes.to_numpy()]
    return np.where(layer_span >= 0, tree.of_span[layer_span], of_module)
