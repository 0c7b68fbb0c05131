"""What spans are below: the layer, library call and kernel of each, as one number, and which of
these chains there are. The nodes of the hierarchy are made of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from xsp.types import IntArray, Level, Tables

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ChainNames:
    """Distinct names of library calls and kernels, and the number of each by row of their table."""

    calls: Sequence[str]
    kernels: Sequence[str]
    of_call: Ints
    of_kernel: Ints

    @classmethod
    def of(cls, tables: Tables) -> ChainNames:
        """Those of a capture."""
        of_call, calls = pd.factorize(tables["library_calls"]["name"])
        of_kernel, kernels = pd.factorize(tables["kernels"]["name"])
        return cls(
            [str(name) for name in calls],
            [str(name) for name in kernels],
            of_call.astype(np.int64),
            of_kernel.astype(np.int64),
        )

    def name(self, level: Level, code: int) -> str:
        """The name of a library call or kernel."""
        return (self.calls if level is Level.LIBRARY else self.kernels)[code]

    def keys(self, spans: pd.DataFrame) -> Ints:
        """The chain of each library call and kernel; 0 for other spans.

        A library call outside layers, and a kernel outside both, is the model's own.
        """
        level, parent = spans["level"].to_numpy(), spans["parent"].to_numpy()
        detail, width = spans["detail"].to_numpy(), len(self.calls) + 1
        found = np.zeros(len(spans), dtype=np.int64)
        layers, calls, kernels = (
            np.flatnonzero(level == one) for one in (Level.LAYER, Level.LIBRARY, Level.KERNEL)
        )
        found[layers] = (detail[layers].astype(np.int64) + 1) * width
        in_layer = level[parent[calls]] == Level.LAYER
        above = np.where(in_layer, found[parent[calls]], 0)
        found[calls] = above + self.of_call[detail[calls]] + 1
        above = found[parent[kernels]]
        found[kernels] = above * max(len(self.kernels), 1) + self.of_kernel[detail[kernels]]
        found[layers] = 0
        return found

    def parts(self, level: Level, key: int) -> tuple[int, int, int]:
        """Of a chain the row of `layers` and the numbers of call and kernel, -1 for none."""
        kernel = -1
        if level is Level.KERNEL:
            key, kernel = divmod(key, max(len(self.kernels), 1))
        layer, call = divmod(key, len(self.calls) + 1)
        return layer - 1, call - 1, kernel


@dataclass(frozen=True)
class Chains:
    """The rows of `layers` that spans lead to, sorted, and the distinct chains of library calls and
    of kernels in the order in which they first come.
    """

    names: ChainNames
    layers: IntArray
    calls: Ints
    kernels: Ints


def chains_of(spans: pd.DataFrame, names: ChainNames) -> Chains:
    """Of these spans, whose `parent` is a place among them."""
    level, detail = spans["level"].to_numpy(), spans["detail"].to_numpy()
    keys = names.keys(spans)
    # Sorting the few that are left is faster than sorting all.
    layers = np.sort(pd.unique(detail[level == Level.LAYER]))
    calls, kernels = (pd.unique(keys[level == one]) for one in (Level.LIBRARY, Level.KERNEL))
    return Chains(names, layers, calls, kernels)


def joined(parts: Sequence[Chains]) -> Chains:
    """Those of spans of which each part has some, in order."""
    layers, calls, kernels = (
        pd.unique(np.concatenate([getattr(part, name) for part in parts]))
        for name in ("layers", "calls", "kernels")
    )
    return Chains(parts[0].names, np.sort(layers), calls, kernels)
