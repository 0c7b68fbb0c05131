"""What one execution of a target consists of: rows for modules, layers and backward nodes.

None of this changes from run to run, so timed runs record codes and stamps only and are aligned
with these rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from xsp.capture.run import call_of
from xsp.levels.layer.autograd import call_and_node
from xsp.levels.layer.function_mode import Codes
from xsp.levels.layer.layer_rows import LayerRows
from xsp.types import Columns


@dataclass(frozen=True)
class ModuleRow:
    """One module: its qualified name, class, the bytes of all parameters below it, and how often it
    was called.
    """

    name: str
    type: str
    parameter_bytes: int
    is_leaf: bool
    calls: int = 0


@dataclass(frozen=True)
class ModuleCall:
    """One call of a module that is not a layer: the layer rows from `first` to before `last` began
    in it.
    """

    module: str
    first: int
    last: int
    input_shapes: list[list[int]]


@dataclass
class Structure:
    """What one execution of the target consists of.

    `layers` are in order of their start; `modules` has every module that was called; `codes` are
    shared with the timed runs.
    """

    codes: Codes
    modules: list[ModuleRow] = field(default_factory=list)
    layers: LayerRows = field(default_factory=LayerRows)
    module_calls: Counter[str] = field(default_factory=Counter)
    calls_of_modules: list[ModuleCall] = field(default_factory=list)
    node_types: dict[int, str] = field(default_factory=dict)
    """By code, of graph nodes that stand for those after them, the type of all."""

    def within(self, calls: Columns, unended: Iterable[int] = ()) -> Structure:
        """Without the layers that began outside the model calls, since restoring state calls torch
        functions too, without the graph nodes that timed runs do not stamp, and without the
        `unended` layers: places of ranges that were never closed.
        """
        inside = call_of(self.layers.starts_ns(), calls) >= 0
        stamped = self._stamped()
        stamped[list(unended)] = False
        keep = np.flatnonzero(inside & stamped)
        modules = [replace(module, calls=self.module_calls[module.name]) for module in self.modules]
        return Structure(
            self.codes,
            modules,
            self.layers.kept(keep, self.node_types),
            self.module_calls,
            self._calls_within(keep),
        )

    def _calls_within(self, keep: npt.NDArray[np.int64]) -> list[ModuleCall]:
        """Calls of modules with the numbers that the kept rows have, without those that have
        none.
        """
        first = np.searchsorted(keep, [call.first for call in self.calls_of_modules]).tolist()
        last = np.searchsorted(keep, [call.last for call in self.calls_of_modules]).tolist()
        placed = [
            replace(call, first=begin, last=end)
            for call, begin, end in zip(self.calls_of_modules, first, last, strict=True)
        ]
        return sorted((call for call in placed if call.first < call.last), key=lambda c: c.first)

    def _stamped(self) -> npt.NDArray[np.bool_]:
        """Which rows timed runs stamp: all but some graph nodes."""
        stamped = np.ones(len(self.layers), dtype=bool)
        for row in np.flatnonzero(self.layers.of_kind("autograd")).tolist():
            call, node = call_and_node(self.layers.code(row))
            stamped[row] = node in self.codes.roots.get(call, (node,))
        return stamped

    def names(self, code: int) -> str | None:
        """Name of a layer with this code, the last one where there are several."""
        rows = np.flatnonzero(self.layers.codes() == code)
        return self.layers.name(int(rows[-1])) if len(rows) else None

    def layer_columns(self) -> dict[str, Any]:
        """The layers as columns, by the names of `LayerRow`."""
        return self.layers.columns()
