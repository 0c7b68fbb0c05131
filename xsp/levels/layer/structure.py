"""What one execution of a target consists of: rows for modules, layers and backward nodes.

None of this changes from run to run, so timed runs record codes and stamps only and are aligned
with these rows.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from operator import attrgetter
from typing import Any

import numpy as np
import numpy.typing as npt

from xsp.capture.run import call_of
from xsp.levels.layer.autograd import call_and_node
from xsp.levels.layer.function_mode import Codes
from xsp.types import Columns

_NO_SHAPE: list[int] = []
_NO_TYPES: list[str] = []
_NO_SHAPES: list[list[int]] = []
_NO_ARGUMENTS: dict[str, Any] = {}


@dataclass(slots=True)
class LayerRow:
    """One layer call. `module` is the qualified name of the innermost module around it, `forward`
    the row whose backward work this is (-1 for forward calls), `arguments` what
    `Called` tells of the call, `source` the line of the program (`path:line`) that made it.
    Lists and dictionaries are shared between rows that say the same, and are not to be changed.
    """

    code: int
    name: str
    type: str
    kind: str
    module: str
    phase: str
    forward: int = -1
    input_shapes: list[list[int]] = field(default_factory=lambda: _NO_SHAPES)
    input_dtypes: list[str] = field(default_factory=lambda: _NO_TYPES)
    output_shapes: list[list[int]] = field(default_factory=lambda: _NO_SHAPES)
    output_dtypes: list[str] = field(default_factory=lambda: _NO_TYPES)
    parameter_bytes: int = 0
    weight_shape: list[int] = field(default_factory=lambda: _NO_SHAPE)
    arguments: dict[str, Any] = field(default_factory=lambda: _NO_ARGUMENTS)
    source: str = ""


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
    layers: list[LayerRow] = field(default_factory=list)
    starts_ns: list[int] = field(default_factory=list)
    module_calls: Counter[str] = field(default_factory=Counter)
    calls_of_modules: list[ModuleCall] = field(default_factory=list)
    node_types: dict[int, str] = field(default_factory=dict)
    """By code, of graph nodes that stand for those after them, the type of all."""

    def add(self, layer: LayerRow) -> None:
        """A layer begins now."""
        self.layers.append(layer)
        self.starts_ns.append(time.perf_counter_ns())

    def within(self, calls: Columns, unended: Iterable[int] = ()) -> Structure:
        """Without the layers that began outside the model calls, since restoring state calls torch
        functions too, without the graph nodes that timed runs do not stamp, and without the
        `unended` layers: places of ranges that were never closed.
        """
        inside = call_of(np.array(self.starts_ns, dtype=np.int64), calls) >= 0
        stamped = np.array(
            [layer.kind != "autograd" or self._is_stamped(layer) for layer in self.layers],
            dtype=bool,
        )
        stamped[list(unended)] = False
        keep = np.flatnonzero(inside & stamped)
        place = {int(old): new for new, old in enumerate(keep)}
        place[-1] = -1
        is_whole = len(keep) == len(self.layers) and not self.node_types
        layers = (
            self.layers if is_whole else [self._placed(self.layers[old], place) for old in keep]
        )
        modules = [replace(module, calls=self.module_calls[module.name]) for module in self.modules]
        return Structure(
            self.codes,
            modules,
            layers,
            [self.starts_ns[old] for old in keep],
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

    def _placed(self, layer: LayerRow, place: Mapping[int, int]) -> LayerRow:
        forward, kind = place[layer.forward], self.node_types.get(layer.code, layer.type)
        if forward == layer.forward and kind == layer.type:
            return layer
        return replace(layer, forward=forward, type=kind)

    def _is_stamped(self, layer: LayerRow) -> bool:
        """Whether timed runs stamp this graph node."""
        call, node = call_and_node(layer.code)
        return node in self.codes.roots.get(call, (node,))

    def names(self, code: int) -> str | None:
        """Name of a layer with this code, the last one where there are several."""
        return next((layer.name for layer in reversed(self.layers) if layer.code == code), None)

    def layer_columns(self) -> dict[str, list[Any]]:
        """The layers as columns, by the names of `LayerRow`."""
        names = [each.name for each in fields(LayerRow)]
        return {name: list(map(attrgetter(name), self.layers)) for name in names}
