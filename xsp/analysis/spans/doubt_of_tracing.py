"""How far the host's times of nodes can be off by what tracers cost."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from xsp.analysis.spans.hierarchy import Hierarchy
from xsp.analysis.spans.rungs import runs_of
from xsp.analysis.spans.statistics import trimmed
from xsp.analysis.spans.sums import distinct, sum_by_run, sum_up
from xsp.types import IntArray, Level, Tables

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class TracingDoubt:
    """Half a 95 % interval in ns, by node: of the time of all below it and it, and of its own."""

    whole: Array
    own: Array


@dataclass(frozen=True)
class DoubtSums:
    """The same run by run, as matrices of (runs, nodes) in ns: of layers without what is below
    them, and of library calls and operators, None where these were not corrected; all None where
    nothing is known.
    """

    layers: Array | None
    calls: Array | None
    operators: Array | None = None


@dataclass(frozen=True, eq=False)
class MostCosts:
    """What tracing can have cost at most, in ns: of every row of `layers` one call's around and
    inside of it, of shape (layers, 2), and one operator's.
    """

    layers: Array
    operator_ns: float


def sums_of_corrected(tree: Hierarchy, tables: Tables, corrected: pd.DataFrame) -> DoubtSums:
    """Of the costs that were taken out: `doubt_ns` of layers, operators and library calls."""
    row, doubt = corrected["row"].to_numpy(), corrected["doubt_ns"].to_numpy()
    level = tables["spans"]["level"].to_numpy()[row]
    run, node = tables["spans"]["run"].to_numpy()[row], tree.of_span[row]
    runs = distinct(run)

    def sums(one: Level) -> Array:
        here = level == one
        return sum_by_run(run[here], node[here], doubt[here], len(tree.nodes), runs)

    return DoubtSums(sums(Level.LAYER), sums(Level.LIBRARY), sums(Level.OP))


def sums_of_measured(tree: Hierarchy, tables: Tables, most: MostCosts | None) -> DoubtSums:
    """Of what tracing can have cost at most, which is still in the times of the rungs that they are
    read from: a layer's costs lie in the time of what is around it, an operator's too. `most` is
    None where nothing is known.
    """
    runs = runs_of(tables["runs"], Level.LAYER)["run"].to_numpy()
    if most is None or not len(runs):
        return DoubtSums(None, None)
    spans = tables["spans"]
    here = (spans["level"] == Level.LAYER).to_numpy() & spans["run"].isin(runs).to_numpy()
    run, detail = spans["run"].to_numpy()[here], spans["detail"].to_numpy()[here]
    inside, around = tree.of_span[here], _around(tree, spans, here)
    size = len(tree.nodes)
    own = sum_by_run(run, around, most.layers[detail, 0], size, runs)
    own += sum_by_run(run, inside, most.layers[detail, 1], size, runs)
    return DoubtSums(own, None, _of_operators(tree, tables, most.operator_ns))


def _of_operators(tree: Hierarchy, tables: Tables, operator_ns: float) -> Array | None:
    """An operator's time holds what tracing those inside it has cost."""
    runs, spans = runs_of(tables["runs"], Level.OP)["run"].to_numpy(), tables["spans"]
    if not len(runs):
        return None
    is_operator = (spans["level"] == Level.OP).to_numpy()
    parent = spans["parent"].to_numpy()
    rows = np.flatnonzero(is_operator & spans["run"].isin(runs).to_numpy())
    inside = np.zeros(len(spans))
    above = parent[rows]
    while len(above := above[is_operator[above]]):
        np.add.at(inside, above, operator_ns)
        above = parent[above]
    run, node = spans["run"].to_numpy()[rows], tree.of_span[rows]
    return sum_by_run(run, node, inside[rows], len(tree.nodes), runs)


def doubt_of(tree: Hierarchy, sums: DoubtSums) -> TracingDoubt:
    """What the runs tell together. A module's doubt is the sum of those below it: what lies between
    layers was not corrected as one.
    """
    if sums.layers is None:
        nothing = np.zeros(len(tree.nodes))
        return TracingDoubt(nothing, nothing)
    own, whole = _mean(sums.layers), _mean(sum_up(tree.parents, sums.layers))
    for level, matrix in ((Level.OP, sums.operators), (Level.LIBRARY, sums.calls)):
        if matrix is not None:
            at, found = tree.levels == level.name, _mean(matrix)
            own, whole = np.where(at, found, own), np.where(at, found, whole)
    return TracingDoubt(whole, own)


def _around(tree: Hierarchy, spans: pd.DataFrame, here: npt.NDArray[np.bool_]) -> IntArray:
    """The node in whose own time each of these layers lies: the layer around it, or else its module
    or the model.
    """
    above = spans["parent"].to_numpy()[here]
    in_layer = spans["level"].to_numpy()[above] == Level.LAYER
    return np.where(in_layer, tree.of_span[above], tree.parents[tree.of_span[here]])


def _mean(by_run: Array) -> Array:
    return trimmed(by_run)[0].astype(np.float64)
