"""What the tracers cost: the kinds of traced events, their prices, and where on the host each price
is paid.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from xsp.types import Level

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


class EventKind(IntEnum):
    """Kinds of traced host events that share one price."""

    LAYER = 0
    FUNCTIONAL = 1
    BACKWARD = 2
    LIBRARY = 3
    LAUNCH = 4
    API = 5
    OPERATOR = 6


class Placement(NamedTuple):
    """Shares of an event's price paid before and after each of its two stamps; they add up to 1."""

    before_start: float
    after_start: float
    before_end: float
    after_end: float


# Layer and library tracers read the clock last on entry and first on exit, so their work lies
# outside the span. CUPTI prepares a launch's record after the entry stamp and finishes it after the
# exit stamp.
PLACEMENTS: Mapping[EventKind, Placement] = {
    EventKind.LAYER: Placement(0.5, 0.0, 0.0, 0.5),
    # The mode calls the function with packed arguments, which takes longer than the program's own
    # call: measured on a CPU, a loop of small operations is only right with some 0.15 inside.
    EventKind.FUNCTIONAL: Placement(0.425, 0.15, 0.0, 0.425),
    # A backward node has one hook, whose stamp both ends the node before and begins this one.
    EventKind.BACKWARD: Placement(0.5, 0.5, 0.0, 0.0),
    EventKind.LIBRARY: Placement(0.5, 0.0, 0.0, 0.5),
    EventKind.LAUNCH: Placement(0.0, 0.5, 0.0, 0.5),
    EventKind.API: Placement(0.0, 0.5, 0.0, 0.5),
    # The callback reads the clock last on entry and first on exit.
    EventKind.OPERATOR: Placement(0.5, 0.0, 0.0, 0.5),
}

COST_LEVELS: Mapping[str, Level] = {
    "layer_ns": Level.LAYER,
    "functional_ns": Level.LAYER,
    "backward_ns": Level.LAYER,
    "library_ns": Level.LIBRARY,
    "launch_ns": Level.KERNEL,
    "api_ns": Level.KERNEL,
    "operator_ns": Level.OP,
    "kernel_ns": Level.KERNEL,
}
"""Which level's tracer causes each cost."""

OPERATOR_COST = list(COST_LEVELS).index("operator_ns")
"""Place of the cost that only profiles with operators have."""

KERNEL_COST = list(COST_LEVELS).index("kernel_ns")
"""Place of the only cost that is paid on the device, not on the host."""


@dataclass(frozen=True)
class Costs:
    """Mean cost of one event of each kind, in ns.

    `layer_ns` to `operator_ns` are host time per event (what is done before and after a layer call
    together); `kernel_ns` is device time after each kernel, which whatever waits for that kernel
    waits for too. `intervals` holds a confidence interval per cost; `identified` is False where the
    rungs' differences do not tell the cost and the prior was kept.
    """

    layer_ns: float = 0.0
    functional_ns: float = 0.0
    backward_ns: float = 0.0
    library_ns: float = 0.0
    launch_ns: float = 0.0
    api_ns: float = 0.0
    operator_ns: float = 0.0
    kernel_ns: float = 0.0
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    identified: Mapping[str, bool] = field(default_factory=dict)

    def of_levels(self, levels: Collection[Level]) -> Costs:
        """The costs that these levels' tracers cause, the others being 0."""
        kept = [level in levels for level in COST_LEVELS.values()]
        return Costs.from_values(np.where(kept, self.values(), 0.0))

    def host(self) -> Floats:
        """Host cost by `EventKind`, float64 of shape (7,)."""
        return self.values()[: len(EventKind)]

    def values(self) -> Floats:
        """All costs in the order of `COST_LEVELS`, float64 of shape (8,)."""
        return np.array([getattr(self, name) for name in COST_LEVELS])

    @classmethod
    def from_values(cls, values: npt.ArrayLike) -> Costs:
        """The inverse of `values`."""
        return cls(**dict(zip(COST_LEVELS, np.asarray(values, dtype=float).tolist(), strict=True)))


SHARES: Floats = np.array([PLACEMENTS[kind] for kind in EventKind])
"""`PLACEMENTS` as an array of shape (7, 4), by `EventKind` and place of payment."""


MAIN_SHARE = 0.25
"""Of a price, what is paid in one place at least for the time there to bound it."""


def placed(costs: Costs) -> Floats:
    """Host cost by `EventKind` and place of payment, float64 of shape (7, 4)."""
    prices: Floats = costs.host()[:, None] * SHARES
    return prices
