"""What a performance database keeps: one layer, one algorithm, one machine, one time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from xsp.graphs.layer import Layer

COLD, WARM = "cold", "warm"
"""How a layer finds the caches: everything in memory, or what the run before left."""

_FACTS = (
    "gpu",
    "compute_capability",
    "multiprocessors",
    "max_sm_clock_mhz",
    "max_memory_clock_mhz",
    "power_limit_w",
    "driver",
    "cuda",
    "cudnn",
    "torch",
)
_CPU_FACTS = ("cpu", "cpu_cores", "cpu_max_mhz", "cpu_flags", "torch_threads", "torch")


@dataclass(frozen=True)
class Machine:
    """Hardware with its highest clocks and power limit, driver and library versions."""

    facts: Mapping[str, Any]

    @classmethod
    def of(cls, environment: Mapping[str, Any], device: str) -> Machine:
        """The machine that an environment (`Profile.environment`) describes; `device` is "cuda" or
        "cpu".
        """
        wanted = _FACTS if device == "cuda" else _CPU_FACTS
        return cls({name: environment.get(name) for name in wanted})

    @property
    def name(self) -> str:
        """The device's name."""
        return str(self.facts.get("gpu") or self.facts.get("cpu") or "unknown")

    @property
    def digest(self) -> str:
        """Sixteen hexadecimal digits that stand for all facts."""
        text = json.dumps(dict(self.facts), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Entry:
    """What a layer took: `time_ns` on the device, with half of its 95 % interval, over `rounds`.

    Where the algorithm cannot compute the layer, `time_ns` is None and `failure` says why.
    `precision` is how products are computed, such as "tf32" on float32 tensors. `provenance` tells
    how it was measured: clocks seen, method, versions of tools.
    """

    machine: Machine
    layer: Layer
    precision: str
    algorithm: str
    caches: str
    time_ns: float | None
    half_width_ns: float | None = None
    rounds: int = 0
    measured_at: float = 0.0
    failure: str = ""
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str, str, str, str]:
        """What there is one entry of: machine, layer, precision, algorithm, caches."""
        return (
            self.machine.digest,
            self.layer.digest,
            self.precision,
            self.algorithm,
            self.caches,
        )
