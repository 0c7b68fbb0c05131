"""Compiled graphs as rows of a capture's tables, and the rule by which a kernel is shared.

A library call belongs to the node that it computes; a template (a matrix product, convolution or
attention written in Triton) to its product, whatever was fused into it. Every other kernel is
shared among its nodes by the bytes that each reads from outside the kernel or gives to others; in
equal parts where these are not known or 0. Nodes of one layer, function and line are one row.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from xsp.provenance.graphs import INFERRED, CompiledGraph, Launch
from xsp.provenance.origins import Origin

Rows = list[dict[str, Any]]

NOT_KNOWN = "(unknown)"
"""Layer of what nothing leads back to the program."""

ROOT_VARIABLE = re.compile(r"^[LG]\['([^']+)'\]")
_MEMBER = re.compile(r"\.?_modules\['([^']+)'\]|\['([^']+)'\]|\[(\d+)\]")

Graph = tuple[CompiledGraph, str]
"""A compiled graph, and the qualified name of the module that was compiled, "" for the model and
for a function.
"""


@dataclass(frozen=True)
class Described:
    """Rows of `compiled_launches` and `compiled_origins` (docs/captures.md)."""

    launches: Rows
    origins: Rows


def described(graphs: Sequence[Graph]) -> Described:
    """The rows of these graphs, in order."""
    launches: Rows = []
    origins: Rows = []
    name = _Names.of(graphs)
    for number, (graph, prefix) in enumerate(graphs):
        products = _products(graph)
        for launch in graph.launches:
            layer_of = partial(name, prefix=prefix)
            origins += _origin_rows(launch, len(launches), layer_of, products)
            launches.append(
                {
                    "graph": number,
                    "phase": graph.phase,
                    "ordinal": launch.ordinal,
                    "kernel": launch.kernel,
                    "kind": launch.kind,
                    "confidence": launch.confidence,
                }
            )
    return Described(launches, origins)


def _products(graph: CompiledGraph) -> dict[str, int]:
    """By node that is a product, the ordinal of the one launch that computes it: a library's or a
    template's, where there is one. Others have what is beside it, as a bias's gradient.
    """
    ordered = sorted(graph.launches, key=lambda launch: launch.kind not in _PRODUCTS)
    found: dict[str, int] = {}
    for launch in ordered:
        for origin in launch.origins:
            if origin.node and origin.flops != 0:
                found.setdefault(origin.node, launch.ordinal)
    return found


_PRODUCTS = ("extern", "template")


def _origin_rows(
    launch: Launch, row: int, layer_of: Callable[[Origin], str], products: Mapping[str, int]
) -> Rows:
    merged: dict[tuple[str, str], dict[str, Any]] = {}
    for origin, share in zip(launch.origins, shares(launch), strict=True):
        layer = layer_of(origin)
        one = merged.setdefault(
            (layer, origin.source),
            {
                "launch": row,
                "layer": layer,
                "operators": [],
                "source": origin.source,
                "share": 0.0,
                "confidence": INFERRED if origin.near else launch.confidence,
                "flops": 0,
            },
        )
        one["share"] += share
        if not origin.node or products.get(origin.node) == launch.ordinal:
            one["flops"] = _sum(one["flops"], origin.flops)
        if origin.operator and origin.operator not in one["operators"]:
            one["operators"].append(origin.operator)
    if not merged:
        return [
            {
                "launch": row,
                "layer": NOT_KNOWN,
                "operators": "",
                "source": "",
                "share": 1.0,
                "confidence": launch.confidence,
                "flops": None,
            }
        ]
    return [each | {"operators": ", ".join(each["operators"])} for each in merged.values()]


def _sum(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one + other


def shares(launch: Launch) -> list[float]:
    """Each origin's share of a launch; they add up to 1."""
    if launch.kind in _PRODUCTS and any(each.main for each in launch.origins):
        return [1.0 if each.main else 0.0 for each in launch.origins]
    moved = [each.bytes for each in launch.origins]
    total = sum(each for each in moved if each is not None)
    if None in moved or not total:
        return [1.0 / len(moved) for _ in moved]
    return [each / total for each in moved if each is not None]


class _Names:
    """What the layers of origins are called: a leaf module by its path, another function as
    `module::function`.
    """

    def __init__(self, containers: set[str], *, several: bool) -> None:
        self._containers = containers
        self._several = several

    @classmethod
    def of(cls, graphs: Iterable[Graph]) -> _Names:
        launches = [each for graph, _ in graphs for each in graph.launches]
        every = [origin for each in launches for origin in each.origins]
        outer = {path for origin in every for path, _ in origin.modules[:-1]}
        roots = {_root(origin.modules[0][0]) for origin in every if origin.modules}
        return cls(outer, several=len(roots) > 1)

    def __call__(self, origin: Origin, prefix: str) -> str:
        if not origin.modules:
            return self._without_module(origin, prefix)
        path = origin.modules[-1][0]
        name = ".".join(filter(None, [prefix, self._path(path)]))
        is_leaf = path not in self._containers and not origin.function.startswith("(")
        return name if is_leaf and name else f"{name}::{origin.function or origin.operator}"

    def _without_module(self, origin: Origin, prefix: str) -> str:
        """What the outermost code itself calls has a function or a line, and no module."""
        if not origin.node or not (origin.function or origin.source):
            return NOT_KNOWN
        return f"{prefix}::{origin.function or origin.operator.rpartition('.')[2]}"

    def _path(self, path: str) -> str:
        inside = ROOT_VARIABLE.sub(r"\1" if self._several else "", path)
        plain = _MEMBER.sub(lambda found: "." + next(filter(None, found.groups())), inside)
        return plain.strip(".")


def _root(path: str) -> str:
    found = ROOT_VARIABLE.match(path)
    return found.group(1) if found else path.partition(".")[0]
