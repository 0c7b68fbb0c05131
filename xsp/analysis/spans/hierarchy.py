"""The nodes of the hierarchy: model, modules, layers, operators, library calls, kernels, and the
node of every span.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from xsp.analysis.spans.chains import BELOW_LAYERS, Chain, ChainNames, Chains, chains_of
from xsp.types import IntArray, Level, Tables


@dataclass
class Hierarchy:
    """Nodes of the hierarchy and the node of every span.

    `nodes` has one row per node: parent (index or -1), level, name, type, phase, shapes. `of_span`
    maps rows of the spans table to nodes, `of_layer` rows of `layers` (the root where no span leads
    to one).
    """

    nodes: list[dict[str, Any]] = field(default_factory=list)
    of_span: IntArray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    of_layer: IntArray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    _known: dict[tuple[Any, ...], int] = field(default_factory=dict)

    def node(self, key: tuple[Any, ...], parent: int, level: str, name: str, **facts: Any) -> int:
        """Index of the node with this key, made if it is new."""
        if key not in self._known:
            self._known[key] = len(self.nodes)
            shapes = {"input_shapes": "", "output_shapes": ""}
            blank = {"type": "", "phase": "forward", **shapes, "source": ""}
            self.nodes.append({"parent": parent, "level": level, "name": name, **blank, **facts})
        return self._known[key]

    @cached_property
    def parents(self) -> IntArray:
        """Parent of every node; read once all nodes are made."""
        return np.array([node["parent"] for node in self.nodes], dtype=np.int64)

    @cached_property
    def levels(self) -> npt.NDArray[Any]:
        """Level of every node, by name; read once all nodes are made."""
        return np.array([node["level"] for node in self.nodes], dtype=object)

    @cached_property
    def names(self) -> npt.NDArray[Any]:
        """Name of every node; read once all nodes are made."""
        return np.array([node["name"] for node in self.nodes], dtype=object)

    def module_node(self, name: str) -> int:
        """Index of a module's node, the model's for "" and for modules without layers."""
        return self._known.get(("module", name), 0)

    def layer_node(self, layer: int) -> int:
        """The node of a row of `layers`, the model's for -1."""
        return int(self.of_layer[layer]) if layer >= 0 else 0

    def add(self, level: Level, chain: Chain, names: ChainNames) -> None:
        """The node at the end of a chain, of a level below LAYER."""
        above = self._above(level, chain, names)
        phase = self.nodes[above]["phase"]
        name = names.name(level, chain)
        self.node(self._key(level, chain, names), above, level.name, name, phase=phase)

    def _above(self, level: Level, chain: Chain, names: ChainNames) -> int:
        """The node that holds the one at the end of a chain."""
        if level is Level.OP:
            return self._operator_node(chain.layer, names.above[chain.operator], names)
        around = self._operator_node(chain.layer, chain.operator, names)
        if level is Level.LIBRARY or chain.call < 0:
            return around
        return self._known[Level.LIBRARY, around, chain.call]

    def _operator_node(self, layer: int, operator: int, names: ChainNames) -> int:
        """The node of a row of `operators` below a layer, the layer's own for -1."""
        if operator < 0:
            return self.layer_node(layer)
        chain = Chain(layer, operator, -1, -1)
        if (key := self._key(Level.OP, chain, names)) not in self._known:
            self.add(Level.OP, chain, names)
        return self._known[key]

    def _key(self, level: Level, chain: Chain, names: ChainNames) -> tuple[Any, ...]:
        above = self._above(level, chain, names)
        if level is Level.OP:
            # The same operator can lie below it in several ways: in layers that are one node.
            return level, above, names.operators[chain.operator]
        return level, above, chain.call if level is Level.LIBRARY else chain.kernel

    def of_spans(
        self, spans: pd.DataFrame, chains: Chains, keys: IntArray | None = None
    ) -> IntArray:
        """The node of each of these spans, of which `chains` has all: their `parent` is a place
        among them. `keys` are their chains, if they have been worked out.
        """
        level, detail = spans["level"].to_numpy(), spans["detail"].to_numpy()
        found = np.zeros(len(spans), dtype=np.int64)
        here = level == Level.LAYER
        found[here] = self.of_layer[detail[here]]
        keys = chains.names.keys(spans) if keys is None else keys
        for one in BELOW_LAYERS:
            here = level == one
            code, distinct = pd.factorize(keys[here])
            ends = [chains.names.chain(one, key) for key in distinct.tolist()]
            nodes = [self._known[self._key(one, end, chains.names)] for end in ends]
            found[here] = np.array(nodes, dtype=np.int64)[code]
        return found


MOST_SHAPES = 4
"""Calls of a layer with more different shapes than these are one node: a cache that grows has
another shape in every step.
"""

REPEATED = 8
"""Equal functional calls of one module are one node from one more on."""


def hierarchy(
    tables: Tables, model: str, *, apart: bool = False, chains: Chains | None = None
) -> Hierarchy:
    """Group spans into nodes: calls of one layer (and phase) are one node, as are same-named calls
    below one parent.

    With `apart` calls of one layer with different input shapes (up to MOST_SHAPES) are nodes of
    their own, and more than REPEATED functional calls of one module that are equal in type and
    input shapes are one node, named after the first. With `chains`, which has what the spans of
    all runs lead to, `tables` needs no spans, and `of_span` stays empty.
    """
    tree = Hierarchy()
    calls = tables["calls"]["input_shapes"]
    shapes = calls.iloc[0] if len(calls) else ""
    tree.node(("model",), -1, "MODEL", model, type="model", input_shapes=shapes)
    if chains is not None:
        _add_nodes(tree, tables, chains, apart=apart)
        return tree
    names = ChainNames.of(tables)
    keys = names.keys(tables["spans"])
    known = chains_of(tables["spans"], names, keys)
    _add_nodes(tree, tables, known, apart=apart)
    tree.of_span = tree.of_spans(tables["spans"], known, keys)
    return tree


def _add_nodes(tree: Hierarchy, tables: Tables, known: Chains, *, apart: bool) -> None:
    keys = _layer_keys(tables, known.layers, apart=apart)
    tree.of_layer = _layer_nodes(tree, tables, known.layers, keys)
    _add_below(tree, known)


def is_parted_by_shapes(tables: Tables) -> bool:
    """Whether the hierarchy with calls `apart` has other nodes than the one without."""
    spans = tables["spans"]
    used = np.unique(spans["detail"].to_numpy()[spans["level"] == Level.LAYER])
    apart, pooled = (_numbers(_layer_keys(tables, used, apart=each)) for each in (True, False))
    return not np.array_equal(apart, pooled)


def _numbers(keys: pd.DataFrame) -> IntArray:
    """The node of each row, in the order in which nodes first come."""
    return keys.groupby(list(keys), sort=False, dropna=False).ngroup().to_numpy()


def _add_below(tree: Hierarchy, chains: Chains) -> None:
    """Nodes of operators, then of library calls, then of kernels, each in the order in which they
    first come.
    """
    for level in BELOW_LAYERS:
        for key in chains.by_level[level].tolist():
            tree.add(level, chains.names.chain(level, key), chains.names)


def _layer_keys(tables: Tables, used: IntArray, *, apart: bool) -> pd.DataFrame:
    """For each of these rows of `layers` what tells its node from others, a row each."""
    every = tables["layers"]
    layers = every.loc[used]
    names, shapes = layers["name"], layers["input_shapes"]
    if not apart:
        return layers[["module", "name", "phase"]]
    # A backward row is of the kind and type of the layer whose work it is.
    origin = layers["forward"].where(layers["forward"] >= 0, layers.index.to_series())
    is_function = (every["kind"].to_numpy()[origin] == "function") & (layers["kind"] != "none")
    facts = layers.assign(type=every["type"].to_numpy()[origin])
    equal = facts[is_function].groupby(["module", "type", "phase", "input_shapes"])["name"]
    repeated = (equal.transform("nunique") > REPEATED).reindex(layers.index, fill_value=False)
    named = names.where(~repeated, "repeated " + facts["type"])
    differing = layers.groupby(["module", "name", "phase"])["input_shapes"].transform("nunique")
    shaped = shapes.where((differing <= MOST_SHAPES) | repeated, "")
    keys = {"module": layers["module"], "name": named, "phase": layers["phase"], "shape": shaped}
    return pd.DataFrame(keys)


def _layer_nodes(tree: Hierarchy, tables: Tables, used: IntArray, keys: pd.DataFrame) -> IntArray:
    layers = tables["layers"]
    columns = [tables["modules"][column].tolist() for column in ("name", "type", "calls")]
    modules = {name: (kind, calls) for name, kind, calls in zip(*columns, strict=True)}
    number = _numbers(keys)
    _, first = np.unique(number, return_index=True)
    rows = layers.loc[used[first]]
    origin = np.where(rows["forward"] >= 0, rows["forward"], rows.index)
    sources = rows["source"].fillna("") if "source" in rows else [""] * len(rows)
    facts = {
        "type": layers["type"].iloc[origin].tolist(),
        **{name: rows[name].tolist() for name in ("phase", "input_shapes", "output_shapes")},
        "source": list(sources),
    }
    names, places = rows["name"].tolist(), rows["module"].tolist()
    nodes = []
    for row, (name, module) in enumerate(zip(names, places, strict=True)):
        above = _module_node(tree, module, modules)
        said = {fact: values[row] for fact, values in facts.items()}
        nodes.append(tree.node(("layer", row), above, "LAYER", name, **said))
    result = np.zeros(len(layers), dtype=np.int64)
    result[used] = np.array(nodes, dtype=np.int64)[number]
    return result


def _module_node(tree: Hierarchy, name: str, modules: dict[str, tuple[str, int]]) -> int:
    known = tree.module_node(name)
    if known or not name:
        return known
    node, path = 0, ""
    for part in filter(None, name.split(".")):
        path = f"{path}.{part}" if path else part
        kind, calls = modules.get(path, ("", 0))
        node = tree.node(("module", path), node, "MODULE", path, type=kind, calls=calls)
    return node
