"""Figures: one plotly figure for each analysis that the paper draws, and the whole stack as an
icicle.

A function here has the name of the analysis in `xsp.analysis` whose table it draws. plotly is
imported when the first figure is made.
"""

from __future__ import annotations

from xsp.analysis.figures.icicle import hierarchy
from xsp.analysis.figures.kernel_bars import kernels_by_name
from xsp.analysis.figures.layer_bars import (
    gpu_vs_nongpu,
    layer_latency,
    layer_memory,
    layer_metrics,
    layers_by_cost,
)
from xsp.analysis.figures.rooflines import kernel_roofline, layer_roofline
from xsp.analysis.figures.shares import (
    layer_latency_by_type,
    layer_memory_by_type,
    layer_type_distribution,
)
from xsp.analysis.figures.sweep import kernels_by_model, model_information

__all__ = [
    "gpu_vs_nongpu",
    "hierarchy",
    "kernel_roofline",
    "kernels_by_model",
    "kernels_by_name",
    "layer_latency",
    "layer_latency_by_type",
    "layer_memory",
    "layer_memory_by_type",
    "layer_metrics",
    "layer_roofline",
    "layer_type_distribution",
    "layers_by_cost",
    "model_information",
]
