"""Which tables the HTML report has, and how each of their columns is headed and explained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from xsp.analysis.kernels import kernel_information, kernels_by_name
from xsp.analysis.layer_kernels import kernels_by_layer
from xsp.analysis.layers import layer_information
from xsp.analysis.library import kernels_by_library_call, library_by_api, library_calls
from xsp.report.sheet_data import Column, Sheet

if TYPE_CHECKING:
    import pandas as pd

    from xsp.analysis.profile_data import ProfileData

_MIB = float(2**20)


def _text(
    name: str, head: str, why: str = "", text: Callable[[str], str] = str, *, hovers: bool = False
) -> Column:
    return Column(name, head, why, "text", text=text, hovers=hovers)


def _ms(name: str, head: str, why: str = "") -> Column:
    return Column(name, head, why, "ms")


def _share(name: str, head: str, why: str = "") -> Column:
    return Column(name, head, why, "share")


def _percent(name: str, head: str, why: str = "") -> Column:
    """A share without a bar behind it: of something else than the latency."""
    return Column(name, head, why, "percent")


def _count(name: str, head: str, why: str = "") -> Column:
    return Column(name, head, why, "count")


def _scaled(name: str, head: str, scale: float, why: str = "") -> Column:
    return Column(name, head, why, "number", scale)


def _yes_or_no(value: str) -> str:
    return "yes" if value == "True" else "no"


def _bound(value: str) -> str:
    return {"True": "memory", "False": "compute"}.get(value, "")


_COVERAGE = _percent(
    "flops_coverage",
    "FLOPs known",
    "Share of the kernels' latency whose FLOPs are known; below 100 % FLOPs, intensity and "
    "FLOP/s are lower bounds",
)
_WORK = (
    _scaled("flops", "GFLOP", 1e9, "Floating-point operations, a multiply-add counted as two"),
    _scaled("dram_read_bytes", "read MiB", _MIB, "Bytes read from DRAM"),
    _scaled("dram_write_bytes", "written MiB", _MIB, "Bytes written to DRAM"),
    _percent(
        "occupancy",
        "occupancy",
        "Active warps over the most that fit; weighted by latency where kernels are summed",
    ),
    _scaled(
        "arithmetic_intensity",
        "FLOP/byte",
        1.0,
        "Arithmetic intensity: FLOPs over bytes read and written",
    ),
    _scaled("flops_per_s", "TFLOP/s", 1e12, "FLOPs over the kernels' latency"),
    _text(
        "memory_bound",
        "bound",
        "memory, if the intensity is below the ridge point of the roofline, else compute",
        _bound,
    ),
    _text(
        "source",
        "from",
        "counters: by the hardware; analytic: from arguments and shapes; mixed: some of each",
    ),
)
_LAYER = (
    _count("layer_index", "#", "Index of the layer, in order of first appearance"),
    _text("layer", "layer"),
)


def _kernel(name: str) -> Column:
    return Column(name, "kernel", "Hover for the full name", "text", hovers=True, is_kernel=True)


_KERNEL_NAME = _kernel("name")

_PRODUCTS = "Of its matrix products, convolutions and attention in one run; empty where not known"

_SURE = _text("confidence", "owner", "exact, verified, inferred or unknown: how sure it is")


def _file(source: str) -> str:
    """`net.py:3` of `/home/me/net.py:3`."""
    return source.rpartition("/")[2]


def _layers_with_waiting(prof: ProfileData) -> pd.DataFrame:
    """`layer_information` with what is left of each cost when the GPU's busy time is taken off."""
    table = layer_information(prof)
    waiting = (table["latency_ms"] - table["device_ms"]).clip(lower=0)
    return table.assign(waiting_ms=waiting)


SHEETS: dict[str, Sequence[Sheet]] = {
    "layers": (
        Sheet(
            "layer-information",
            "Every layer (A2)",
            (
                _count("index", "#", "In order of first appearance"),
                _text("name", "layer"),
                _text("type", "type"),
                _text("phase", "phase"),
                _text("shape", "output", "Shape of the output"),
                _ms(
                    "latency_ms",
                    "latency ms",
                    "Its part of the latency: the GPU busy for it, or idle because of it",
                ),
                _ms("latency_ci_ms", "±", "Half of the 95 % interval"),
                _ms("device_ms", "busy ms", "The GPU busy with its kernels"),
                _ms("waiting_ms", "waiting ms", "The GPU idle because of it"),
                _ms("host_ms", "host ms", "The host's time in it"),
                _scaled("allocated_bytes", "alloc MiB", _MIB, "Memory that the layer allocates"),
                _share("share", "share", "Of the model latency"),
            ),
            _layers_with_waiting,
        ),
    ),
    "kernels": (
        Sheet(
            "kernels-by-name",
            "Kernels by name (A10)",
            (
                _KERNEL_NAME,
                _count("count", "calls", "Per run"),
                _ms("latency_ms", "latency ms", "All calls together"),
                _share("share", "share", "Of the model latency"),
                *_WORK,
                _COVERAGE,
            ),
            kernels_by_name,
        ),
        Sheet(
            "kernel-information",
            "Every kernel, in order of launch (A8)",
            (
                _count("index", "#", "Position in the sequence of launches"),
                _KERNEL_NAME,
                _text("layer", "layer"),
                _ms("latency_ms", "latency ms"),
                _ms("latency_ci_ms", "±", "Half of the 95 % interval"),
                *_WORK,
            ),
            kernel_information,
        ),
    ),
    "both": (
        Sheet(
            "kernels-by-layer",
            "Kernels summed by layer (A11)",
            (
                *_LAYER,
                _text("type", "type"),
                _text("phase", "phase"),
                _ms("layer_latency_ms", "layer ms", "Latency of the layer"),
                _ms("kernel_latency_ms", "kernels ms", "Latency of its kernels"),
                _count("kernels", "kernels", "Per run"),
                *_WORK,
                _COVERAGE,
            ),
            kernels_by_layer,
        ),
    ),
    "library": (
        Sheet(
            "library-by-api",
            "Library calls by function",
            (
                _text("name", "function"),
                _text("library", "library"),
                _count("count", "calls", "Per run"),
                _ms("host_ms", "host ms", "All calls together, on the host"),
                _ms("gpu_ms", "GPU ms", "Of the kernels that they launch"),
                _share("share", "share", "Of the model latency"),
                _scaled("flops", "GFLOP", 1e9, "From the arguments"),
            ),
            library_by_api,
        ),
        Sheet(
            "library-calls",
            "Every library call, with its arguments",
            (
                _count("index", "#", "In order of the calls"),
                _text("name", "function"),
                _text("library", "library"),
                _text("layer", "layer"),
                _ms("host_ms", "host ms"),
                _ms("gpu_ms", "GPU ms", "Of the kernels that it launches"),
                _scaled("flops", "GFLOP", 1e9, "From the arguments"),
                _text("arguments", "arguments", "Hover for all of them", hovers=True),
            ),
            library_calls,
        ),
        Sheet(
            "kernels-by-library-call",
            "Kernels of each library call",
            (
                _count("library_index", "#", "The library call"),
                _text("library_call", "function"),
                _text("layer", "layer"),
                _kernel("kernel"),
                _ms("latency_ms", "latency ms"),
                _scaled("flops", "GFLOP", 1e9),
                _scaled("arithmetic_intensity", "FLOP/byte", 1.0),
                _scaled("flops_per_s", "TFLOP/s", 1e12),
                _text("memory_bound", "bound", "", _bound),
            ),
            kernels_by_library_call,
        ),
    ),
    "compiled": (
        Sheet(
            "compiled-layers",
            "What compiled code spends on each layer of the program",
            (
                _text("layer", "layer"),
                _text("phase", "phase"),
                _ms("device_ms", "kernels ms", "Its share of the time of the kernels"),
                _percent("share", "of compiled kernels", "Of all that compiled graphs ran"),
                _scaled("flops", "GFLOP", 1e9, _PRODUCTS),
                _count("launches", "launches", "That it has a share of"),
                _SURE,
            ),
            lambda prof: prof.compiled_layers(),
        ),
        Sheet(
            "compiled-kernels",
            "Every launch of compiled code, with the layers that share it",
            (
                _count("graph", "graph", "In the order of first calls"),
                _text("phase", "phase"),
                _count("ordinal", "#", "In its graph; -1: no launch was found for the kernel"),
                _kernel("kernel"),
                _text("kind", "kind"),
                _text("layer", "layer"),
                _text("source", "line", "Hover for the whole path", _file, hovers=True),
                _percent("share", "share", "Of the launch: by the bytes that it moves"),
                _ms("device_ms", "ms"),
                _scaled("flops", "GFLOP", 1e9, _PRODUCTS),
                _SURE,
            ),
            lambda prof: prof.compiled(),
        ),
    ),
    "tracing": (
        Sheet(
            "overhead",
            "What each rung adds to the levels above",
            (
                _text("rung", "rung"),
                _text("level", "level"),
                _ms(
                    "added_ms",
                    "added ms",
                    "Latency in this rung less that in the rung before, in the same rounds",
                ),
                _ms("added_ci_ms", "±", "Half of the 95 % interval"),
                _share("added_share", "share", "Of the unprofiled model latency"),
                _count("events", "events", "That the added level records in a run"),
                _scaled(
                    "added_us_per_event", "µs per event", 1.0, "What was added, over these events"
                ),
            ),
            lambda prof: prof.overhead(),
        ),
        Sheet(
            "costs",
            "What one event of each kind cost, fitted in place",
            (
                _text("kind", "event"),
                _text("level", "level"),
                _scaled("cost_ns", "cost µs", 1e3),
                _scaled("low_ns", "low µs", 1e3, "Lower end of the 95 % interval"),
                _scaled("high_ns", "high µs", 1e3, "Upper end of the 95 % interval"),
                _scaled(
                    "tight_loop_ns",
                    "tight loop µs",
                    1e3,
                    "The same event in a tight loop, as a check",
                ),
                _text(
                    "identified",
                    "from the rungs",
                    "no: the rungs do not tell this cost apart, or at all",
                    _yes_or_no,
                ),
            ),
            lambda prof: prof.costs.replace({"tight_loop_ns": {0: float("nan")}}),
        ),
        Sheet(
            "closure",
            "Closure error: the corrected total against the unprofiled latency",
            (
                _text("rung", "rung"),
                _percent("error", "error"),
                _percent("low", "low", "Lower end of the 95 % interval"),
                _percent("high", "high", "Upper end of the 95 % interval"),
                _count("rounds", "rounds", "That the costs were not fitted on"),
            ),
            lambda prof: prof.closure_error.reset_index(),
        ),
    ),
}
"""Tables by section of the page."""
