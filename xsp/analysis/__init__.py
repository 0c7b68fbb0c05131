"""Pure functions from the columns of a profile to tables; nothing here measures.

The analyses are functions of a profile and can be called as `xsp.analysis.layer_information(prof)`;
their modules are imported on first use. docs/analyses.md describes every column.
"""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xsp.analysis import figures as figures
    from xsp.analysis import peaks as peaks
    from xsp.analysis.kernels import kernel_information as kernel_information
    from xsp.analysis.kernels import kernel_roofline as kernel_roofline
    from xsp.analysis.kernels import kernels_by_name as kernels_by_name
    from xsp.analysis.layer_kernels import gpu_vs_nongpu as gpu_vs_nongpu
    from xsp.analysis.layer_kernels import kernels_by_layer as kernels_by_layer
    from xsp.analysis.layer_kernels import layer_metrics as layer_metrics
    from xsp.analysis.layer_kernels import layer_roofline as layer_roofline
    from xsp.analysis.layers import layer_information as layer_information
    from xsp.analysis.layers import layer_latency as layer_latency
    from xsp.analysis.layers import layer_latency_by_type as layer_latency_by_type
    from xsp.analysis.layers import layer_memory as layer_memory
    from xsp.analysis.layers import layer_memory_by_type as layer_memory_by_type
    from xsp.analysis.layers import layer_type_distribution as layer_type_distribution
    from xsp.analysis.library import kernels_by_library_call as kernels_by_library_call
    from xsp.analysis.library import library_by_api as library_by_api
    from xsp.analysis.library import library_calls as library_calls
    from xsp.analysis.model import kernels_by_model as kernels_by_model
    from xsp.analysis.model import model_information as model_information
    from xsp.analysis.models import compare_models as compare_models

_MODULES = {
    "model": ("model_information", "kernels_by_model"),
    "layers": (
        "layer_information",
        "layer_latency",
        "layer_memory",
        "layer_type_distribution",
        "layer_latency_by_type",
        "layer_memory_by_type",
    ),
    "kernels": ("kernel_information", "kernel_roofline", "kernels_by_name"),
    "layer_kernels": ("kernels_by_layer", "layer_metrics", "gpu_vs_nongpu", "layer_roofline"),
    "models": ("compare_models",),
    "library": ("library_calls", "library_by_api", "kernels_by_library_call"),
}
_ABOVE = {"lower_bound": "xsp.bounds.lower_bound"}
"""Analyses that need more than a profile, and so live above this package."""
_SUBMODULES = ("figures", "peaks")
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name == "compare":
        warnings.warn("xsp.analysis.compare is now xsp.compare", DeprecationWarning, stacklevel=2)
        return import_module("xsp").compare
    if name in _SUBMODULES:
        return import_module(f"xsp.analysis.{name}")
    if name in _ABOVE:
        return getattr(import_module(_ABOVE[name]), name)
    if name not in _HOME:
        raise AttributeError(f"module 'xsp.analysis' has no attribute {name!r}")
    return getattr(import_module(f"xsp.analysis.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME, *_ABOVE, *_SUBMODULES})
