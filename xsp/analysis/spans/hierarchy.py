"""The nodes of the hierarchy: model, modules, layers, library calls, kernels, and the node of every
span.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from xsp.types import IntArray, Level, Tables


@dataclass
class Hierarchy:
    """Nodes of the hierarchy and the node of every span.

    `nodes` has one row per node: parent (index or -1), level, name, type, phase, shapes. `of_span`
    maps rows of the spans table to nodes.
    """

    nodes: list[dict[str, Any]] = field(default_factory=list)
    of_span: IntArray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    _known: dict[tuple[Any, ...], int] = field(default_factory=dict)

    def node(self, key: tuple[Any, ...], parent: int, level: str, name: str, **facts: Any) -> int:
        """Index of the node with this key, made if it is new."""
        if key not in self._known:
            self._known[key] = len(self.nodes)
            shapes = {"input_shapes": "", "output_shapes": ""}
            blank = {"type": "", "phase": "forward", **shapes, "source": ""}
            self.nodes.append({"parent": parent, "level": level, "name": name, **blank, **facts})
        return self._known[key]

    @property
    def parents(self) -> IntArray:
        """Parent of every node."""
        return np.array([node["parent"] for node in self.nodes], dtype=np.int64)

    @property
    def levels(self) -> npt.NDArray[Any]:
        """Level of every node, by name."""
        return np.array([node["level"] for node in self.nodes], dtype=object)

    @property
    def names(self) -> npt.NDArray[Any]:
        """Name of every node."""
        return np.array([node["name"] for node in self.nodes], dtype=object)

    def module_node(self, name: str) -> int:
        """Index of a module's node, the model's for "" and for modules without layers."""
        return self._known.get(("module", name), 0)


MOST_SHAPES = 4
"""Calls of a layer with more different shapes than these are one node: a cache that grows has
another shape in every step.
"""

REPEATED = 8
"""Equal functional calls of one module are one node from one more on."""


def hierarchy(tables: Tables, model: str, *, apart: bool = False) -> Hierarchy:
    """Group spans into nodes: calls of one layer (and phase) are one node, as are same-named calls
    below one parent.

    With `apart` calls of one layer with different input shapes (up to MOST_SHAPES) are nodes of
    their own, and more than REPEATED functional calls of one module that are equal in type and
    input shapes are one node, named after the first.
    """
    tree = Hierarchy()
    calls = tables["calls"]["input_shapes"]
    root = tree.node(
        ("model",),
        -1,
        "MODEL",
        model,
        type="model",
        input_shapes=calls.iloc[0] if len(calls) else "",
    )
    spans = tables["spans"]
    level, parent = spans["level"].to_numpy(), spans["parent"].to_numpy()
    detail = spans["detail"].to_numpy()
    tree.of_span = np.full(len(spans), root, dtype=np.int64)

    used = np.unique(detail[level == Level.LAYER])
    layer_nodes = _layer_nodes(tree, root, tables, used, _layer_keys(tables, used, apart=apart))
    here = level == Level.LAYER
    tree.of_span[here] = layer_nodes[detail[here]]
    names = {
        Level.LIBRARY: tables["library_calls"]["name"],
        Level.KERNEL: tables["kernels"]["name"],
    }
    for one in (Level.LIBRARY, Level.KERNEL):
        here = level == one
        code, name = pd.factorize(names[one])
        below = pd.DataFrame({"parent": tree.of_span[parent[here]], "code": code[detail[here]]})
        distinct = below.drop_duplicates()
        pairs = zip(distinct["parent"].tolist(), distinct["code"].tolist(), strict=True)
        index = [
            tree.node(
                (one, above, which),
                above,
                one.name,
                str(name[which]),
                phase=tree.nodes[above]["phase"],
            )
            for above, which in pairs
        ]
        place = below.merge(
            distinct.assign(node=np.array(index, dtype=np.int64)), how="left", on=["parent", "code"]
        )
        tree.of_span[here] = place["node"].to_numpy()
    return tree


def _layer_keys(tables: Tables, used: IntArray, *, apart: bool) -> list[tuple[str, ...]]:
    """For each of these rows of `layers` what tells its node from others."""
    every = tables["layers"]
    layers = every.loc[used]
    names, shapes = layers["name"], layers["input_shapes"]
    if not apart:
        return list(zip(layers["module"], names, layers["phase"], strict=True))
    # A backward row is of the kind and type of the layer whose work it is.
    origin = layers["forward"].where(layers["forward"] >= 0, layers.index.to_series())
    is_function = (every["kind"].to_numpy()[origin] == "function") & (layers["kind"] != "none")
    facts = layers.assign(type=every["type"].to_numpy()[origin])
    equal = facts[is_function].groupby(["module", "type", "phase", "input_shapes"])["name"]
    repeated = (equal.transform("nunique") > REPEATED).reindex(layers.index, fill_value=False)
    named = names.where(~repeated, "repeated " + facts["type"])
    differing = layers.groupby(["module", "name", "phase"])["input_shapes"].transform("nunique")
    shaped = shapes.where((differing <= MOST_SHAPES) | repeated, "")
    return list(zip(layers["module"], named, layers["phase"], shaped, strict=True))


def _layer_nodes(
    tree: Hierarchy,
    root: int,
    tables: Tables,
    used: IntArray,
    keys: list[tuple[str, ...]],
) -> IntArray:
    layers = tables["layers"]
    columns = [tables["modules"][column].tolist() for column in ("name", "type", "calls")]
    modules = {name: (kind, calls) for name, kind, calls in zip(*columns, strict=True)}
    forward_type = layers["type"].to_numpy()
    result = np.full(len(layers), root, dtype=np.int64)
    records = layers.loc[used].to_dict("records")
    for index, row, key in zip(used.tolist(), records, keys, strict=True):
        above = _module_node(tree, root, row["module"], modules)
        kind = row["type"] if row["forward"] < 0 else forward_type[row["forward"]]
        result[index] = tree.node(
            ("layer", *key),
            above,
            "LAYER",
            row["name"],
            type=kind,
            phase=row["phase"],
            input_shapes=row["input_shapes"],
            output_shapes=row["output_shapes"],
            source=row.get("source") or "",
        )
    return result


def _module_node(tree: Hierarchy, root: int, name: str, modules: dict[str, tuple[str, int]]) -> int:
    node, path = root, ""
    for part in filter(None, name.split(".")):
        path = f"{path}.{part}" if path else part
        kind, calls = modules.get(path, ("", 0))
        node = tree.node(("module", path), node, "MODULE", path, type=kind, calls=calls)
    return node
