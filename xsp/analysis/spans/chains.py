"""What spans are below: the layer, operators, library call and kernel of each, as one number, and
which of these chains there are. The nodes of the hierarchy are made of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from xsp.analysis.spans.ancestors import nearest
from xsp.capture.schema import details_of
from xsp.types import IntArray, Level, Tables

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Chain:
    """What a span is below: the row of `layers`, the row of `operators`, and the numbers of its
    library call and kernel; -1 for none.
    """

    layer: int
    operator: int
    call: int
    kernel: int


@dataclass(frozen=True)
class ChainNames:
    """Distinct names of library calls and kernels, and the number of each by row of their table; of
    every row of `operators` its name and the row above.
    """

    calls: Sequence[str]
    kernels: Sequence[str]
    of_call: Ints
    of_kernel: Ints
    operators: Sequence[str]
    above: Sequence[int]

    @classmethod
    def of(cls, tables: Tables) -> ChainNames:
        """Those of a capture."""
        of_call, calls = pd.factorize(tables["library_calls"]["name"])
        of_kernel, kernels = pd.factorize(tables["kernels"]["name"])
        operators = details_of(tables, Level.OP)
        return cls(
            [str(name) for name in calls],
            [str(name) for name in kernels],
            of_call.astype(np.int64),
            of_kernel.astype(np.int64),
            [str(name) for name in operators["name"]],
            operators["above"].tolist(),
        )

    def name(self, level: Level, chain: Chain) -> str:
        """The name of the operator, library call or kernel at the end of a chain."""
        if level is Level.OP:
            return self.operators[chain.operator]
        return self.calls[chain.call] if level is Level.LIBRARY else self.kernels[chain.kernel]

    def keys(self, spans: pd.DataFrame) -> Ints:
        """The chain of each operator, library call and kernel; 0 for other spans.

        A library call outside layers, and a kernel outside both, is the model's own.
        """
        level, parent = spans["level"].to_numpy(), spans["parent"].to_numpy()
        detail = spans["detail"].to_numpy().astype(np.int64)
        found = np.zeros(len(spans), dtype=np.int64)
        layers, operators, calls, kernels = (
            np.flatnonzero(level == one)
            for one in (Level.LAYER, Level.OP, Level.LIBRARY, Level.KERNEL)
        )
        ways, widths = len(self.operators) + 1, len(self.calls) + 1
        found[layers] = (detail[layers] + 1) * ways * widths
        if len(operators):
            layer = nearest(parent, level <= Level.LAYER, parent[operators])
            found[operators] = found[layer] + (detail[operators] + 1) * widths
        above = np.where(level[parent[calls]] != Level.MODEL, found[parent[calls]], 0)
        found[calls] = above + self.of_call[detail[calls]] + 1
        above = found[parent[kernels]]
        found[kernels] = above * max(len(self.kernels), 1) + self.of_kernel[detail[kernels]]
        found[layers] = 0
        return found

    def chain(self, level: Level, key: int) -> Chain:
        """The inverse of `keys`."""
        kernel = -1
        if level is Level.KERNEL:
            key, kernel = divmod(key, max(len(self.kernels), 1))
        place, call = divmod(key, len(self.calls) + 1)
        layer, operator = divmod(place, len(self.operators) + 1)
        return Chain(layer - 1, operator - 1, call - 1, kernel)


BELOW_LAYERS = (Level.OP, Level.LIBRARY, Level.KERNEL)
"""Levels whose spans are nodes by their chain."""


@dataclass(frozen=True)
class Chains:
    """The rows of `layers` that spans lead to, sorted, and by level the distinct chains of
    operators, library calls and kernels in the order in which they first come.
    """

    names: ChainNames
    layers: IntArray
    by_level: Mapping[Level, Ints]


def chains_of(spans: pd.DataFrame, names: ChainNames, keys: Ints | None = None) -> Chains:
    """Of these spans, whose `parent` is a place among them. `keys` are those of `names`, if they
    have been worked out.
    """
    level, detail = spans["level"].to_numpy(), spans["detail"].to_numpy()
    keys = names.keys(spans) if keys is None else keys
    # Sorting the few that are left is faster than sorting all.
    layers = np.sort(pd.unique(detail[level == Level.LAYER]))
    return Chains(names, layers, {one: pd.unique(keys[level == one]) for one in BELOW_LAYERS})


def joined(parts: Sequence[Chains]) -> Chains:
    """Those of spans of which each part has some, in order."""
    layers = pd.unique(np.concatenate([part.layers for part in parts]))
    by_level = {
        level: pd.unique(np.concatenate([part.by_level[level] for part in parts]))
        for level in BELOW_LAYERS
    }
    return Chains(parts[0].names, np.sort(layers), by_level)
