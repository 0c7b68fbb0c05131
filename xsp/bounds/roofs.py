"""How a layer is computed, and the least time that it can take by the peaks. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, nan
from typing import Any

from xsp.analysis.peaks import cpu_peaks, gpu_peaks
from xsp.graphs.layer import Layer
from xsp.graphs.work import flops, is_product

PRECISIONS = {
    "float64": "fp64",
    "float32": "fp32",
    "float16": "fp16",
    "bfloat16": "bf16",
    "float8_e4m3fn": "fp8",
}
"""How products of tensors of a type are computed, by what a database calls it."""


@dataclass(frozen=True)
class Flags:
    """How products of float32 tensors are computed: whether TF32 is allowed."""

    products: bool = False
    convolutions: bool = False

    @classmethod
    def of(cls, environment: Mapping[str, Any]) -> Flags:
        """As the profile's environment has it."""
        return cls(
            bool(environment.get("allow_tf32", False)),
            bool(environment.get("cudnn_allow_tf32", False)),
        )

    def precision(self, layer: Layer) -> str:
        """How this layer's products are computed."""
        allowed = self.convolutions if layer.operator == "convolution" else self.products
        if layer.dtype == "float32" and allowed and is_product(layer):
            return "tf32"
        return PRECISIONS.get(layer.dtype, layer.dtype)

    def ways(self, layer: Layer) -> list[str]:
        """Every way in which its products may be computed: with TF32 also those without it."""
        own = self.precision(layer)
        return [own, "fp32"] if own == "tf32" else [own]


WITHOUT_TF32 = Flags()
"""Products of float32 tensors are computed in float32."""


@dataclass(frozen=True)
class Peaks:
    """FLOP/s by precision and bytes/s of the memory; empty and NaN where not known."""

    flops_per_s: Mapping[str, float]
    bytes_per_s: float

    @classmethod
    def of(cls, environment: Mapping[str, Any], device: str) -> Peaks:
        """Theoretical peaks of the device, the fastest unit of each precision; the memory's
        bandwidth is the measured one where there is no other.
        """
        found = cpu_peaks(environment) if device == "cpu" else gpu_peaks(environment)
        measured = environment.get("measured_peaks") or {}
        memory = found.get("dram", (float(measured.get("dram_bytes_per_s", nan)), ""))[0]
        rates: dict[str, float] = {}
        for resource, (per_s, _) in found.items():
            precision = resource.partition(" ")[0]
            if resource != "dram":
                rates[precision] = max(rates.get(precision, 0.0), per_s)
        return cls(rates, memory)

    def roof_ns(self, layer: Layer, precision: str) -> float:
        """The least time by the peaks: all tensors once through memory, all operations at the
        peak. 0 where nothing is known.
        """
        moving = layer.traffic_bytes / self.bytes_per_s if self.bytes_per_s > 0 else 0.0
        peak = self.flops_per_s.get(precision) or self.flops_per_s.get("fp32", inf)
        return max(moving, flops(layer) / peak) * 1e9
