"""A capture with all four levels as a GPU would give it: three layers, two library calls, five
kernels, three rounds.

The times are chosen so that sums can be done in the head: ns on the host's clock, one round every
10 ms.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from xsp import Profile
from xsp.capture.file import Capture
from xsp.types import DEFAULT_LEVELS, SYNCHRONIZATIONS, Level, empty

ROUNDS = 3
RUNGS = ("M", "M/L", "M/L/Lib", "M/L/Lib/K")
LATENCY_NS = 1_000_000
HOSTILE_KERNEL = "void gemm<script>alert('xsp')</script>(float*)"
HOSTILE_LAYER = "block.<b>act</b>"

_THREAD, _STREAM = 7, 0

# name, type, module, start and duration on the host
_LAYERS = (
    ("block.conv", "Conv2d", "block", 100_000, 300_000),
    (HOSTILE_LAYER, "ReLU", "block", 420_000, 80_000),
    ("fc", "Linear", "", 520_000, 200_000),
)
# name, library, layer, start, duration
_LIBRARY = (
    ("cudnnBackendExecute", "cudnn", 0, 150_000, 200_000),
    ("cublasGemmEx", "cublas", 2, 560_000, 120_000),
)
# name, kind, library call or None, layer, start, duration
_KERNELS = (
    ("void nchwToNhwc<float>(float*)", "kernel", 0, 0, 300_000, 50_000),
    ("sm90_xmma_fprop_implicit_gemm", "kernel", 0, 0, 350_000, 250_000),
    (
        "void at::native::vectorized_elementwise_kernel<4, int>(int)",
        "kernel",
        None,
        1,
        600_000,
        100_000,
    ),
    (HOSTILE_KERNEL, "kernel", 1, 2, 700_000, 150_000),
    ("memset", "memset", 1, 2, 850_000, 10_000),
)


def gpu_profile(**meta: Any) -> Profile:
    """The capture as a profile; keywords replace entries of its meta data."""
    return Profile(gpu_capture(**meta))


def gpu_capture(**meta: Any) -> Capture:
    """Three rounds of all rungs; GPU busy 560 of 1000 µs."""
    tables = {
        "runs": _runs(),
        "model_calls": _model_calls(),
        "spans": _spans(),
        "api_calls": _api_calls(),
        "synchronizations": pd.DataFrame(
            {"run": pd.Series(dtype="int32")} | dict(empty(SYNCHRONIZATIONS))
        ),
        "calls": pd.DataFrame(
            [
                {
                    "name": "Net",
                    "call": 0,
                    "input_shapes": "[[8, 3]]",
                    "input_dtypes": "['float16']",
                    "batch_size": 8,
                }
            ]
        ),
        "modules": _modules(),
        "layers": _layers(),
        "library_calls": pd.DataFrame(
            {
                "name": [row[0] for row in _LIBRARY],
                "library": [row[1] for row in _LIBRARY],
                "arguments": ["{}", '{"m": 8, "n": 10, "k": 64}'],
                "flops": pd.array([None, 2 * 8 * 10 * 64], dtype="Int64"),
            }
        ),
        "kernels": _kernels(),
    }
    return Capture(_META | meta, tables)


def profile_without(level: str, reason: str) -> Profile:
    """The GPU profile as if everything from `level` on could not be traced."""
    capture = gpu_capture()
    order = ["MODEL", "LAYER", "LIBRARY", "KERNEL"]
    gone = order.index(level)
    keep_run = (capture.tables["runs"]["position"] < gone).to_numpy()
    spans = capture.tables["spans"]
    kept = spans[keep_run[spans["run"]]].reset_index(drop=True)
    first = np.cumsum(~keep_run[spans["run"]])
    kept["parent"] = np.where(
        kept["parent"] >= 0, kept["parent"] - first[kept["parent"].clip(lower=0)], -1
    )
    levels = [
        row
        | ({"status": "unavailable", "reason": reason} if order.index(row["level"]) >= gone else {})
        for row in capture.meta["levels"]
    ]
    runs = capture.tables["runs"][keep_run]
    renumbered = {run: at for at, run in enumerate(runs["run"])}
    kept["run"] = kept["run"].map(renumbered)
    tables = {
        **capture.tables,
        "spans": kept,
        "runs": runs.assign(run=range(len(runs))).reset_index(drop=True),
    }
    return Profile(Capture({**capture.meta, "levels": levels, "clock": None}, tables))


def wide_profile(layers: int) -> Profile:
    """A profile of so many layers, all alike, at MODEL and LAYER level."""
    capture = gpu_capture()
    layer = capture.tables["layers"].iloc[[2]]
    table = pd.concat([layer] * layers, ignore_index=True)
    table["name"] = [f"fc{i}" for i in range(layers)]
    runs = capture.tables["runs"].iloc[:2]
    spans = capture.tables["spans"]
    model = spans[(spans["run"] < 2) & (spans["level"] == 0)]
    one = spans[(spans["run"] == 1) & (spans["level"] == 1)].iloc[[0]]
    below = pd.concat([one] * layers, ignore_index=True).assign(
        detail=range(layers), parent=1, duration_ns=100
    )
    tables = {
        **capture.tables,
        "layers": table,
        "runs": runs,
        "spans": pd.concat([model, below], ignore_index=True),
    }
    return Profile(Capture(capture.meta, tables))


_META: dict[str, Any] = {
    "name": "Net",
    "levels": [
        {"level": level.name, "tracer": "synthetic", "status": "traced", "reason": ""}
        for level in DEFAULT_LEVELS
    ],
    "environment": {
        "gpu": "NVIDIA H100 80GB HBM3",
        "torch": "2.11.0+cu130",
        "cuda": "13.0",
        "driver": "580.1",
    },
    "warnings": [],
    "stopped": "3 rounds as asked for",
    "memory_device": "cuda",
    "clock": {
        "method": "timestamp callback",
        "error_ns": 350,
        "offset_ns": 0,
        "drift": 0.0,
        "reference_ns": 0,
    },
    "trace": {"trace_id": "1" * 32, "parent_span_id": "0" * 16, "first_span_id": 1000},
}


def _runs() -> pd.DataFrame:
    rows = [
        {
            "run": round_ * len(RUNGS) + position,
            "rung": rung,
            "deepest": Level(position).name,
            "round": round_,
            "position": position,
            "start_ns": _start(round_ * len(RUNGS) + position),
            "latency_ns": LATENCY_NS + position * 20_000 + round_ * 1_000 - 1_000,
            "host_latency_ns": LATENCY_NS - 100_000,
            "lost": 0,
            "unmatched": 0,
            "orphans": 0,
        }
        for round_ in range(ROUNDS)
        for position, rung in enumerate(RUNGS)
    ]
    return pd.DataFrame(rows)


def _model_calls() -> pd.DataFrame:
    runs = _runs()
    return pd.DataFrame(
        {
            "run": runs["run"],
            "thread": _THREAD,
            "start_ns": runs["start_ns"],
            "host_end_ns": runs["start_ns"] + runs["host_latency_ns"],
            "end_ns": runs["start_ns"] + runs["latency_ns"],
        }
    )


def _start(run: int) -> int:
    return (run + 1) * 10_000_000


def _spans() -> pd.DataFrame:
    rows: list[dict[str, int]] = []
    for run in range(ROUNDS * len(RUNGS)):
        _add_spans(rows, run, Level(run % len(RUNGS)))
    return pd.DataFrame(rows)


def _add_spans(rows: list[dict[str, int]], run: int, deepest: Level) -> None:
    def add(
        level: Level, detail: int, parent: int, start: int, duration: int, stream: int = -1
    ) -> int:
        on_device = level is Level.KERNEL
        rows.append(
            {
                "run": run,
                "level": int(level),
                "detail": detail,
                "parent": parent,
                "start_ns": _start(run) + start,
                "duration_ns": duration,
                "thread": _THREAD,
                "stream": stream,
                "context": int(on_device),
                "correlation_id": detail + 1 if on_device else 0,
            }
        )
        return len(rows) - 1

    model = add(Level.MODEL, 0, -1, 0, LATENCY_NS - 100_000)
    layers, calls = [], []
    if deepest >= Level.LAYER:
        layers = [add(Level.LAYER, i, model, row[3], row[4]) for i, row in enumerate(_LAYERS)]
    if deepest >= Level.LIBRARY:
        calls = [
            add(Level.LIBRARY, i, layers[row[2]], row[3], row[4]) for i, row in enumerate(_LIBRARY)
        ]
    if deepest >= Level.KERNEL:
        for i, (_, _, call, layer, start, duration) in enumerate(_KERNELS):
            add(
                Level.KERNEL,
                i,
                layers[layer] if call is None else calls[call],
                start,
                duration,
                _STREAM,
            )


def _api_calls() -> pd.DataFrame:
    spans = _spans()
    kernels = spans[spans["level"] == Level.KERNEL]
    return pd.DataFrame(
        {
            "run": kernels["run"].to_numpy(),
            "name": pd.Categorical(["cudaLaunchKernel"] * len(kernels)),
            "parent": kernels["parent"].to_numpy(),
            "start_ns": spans["start_ns"].to_numpy()[kernels["parent"]] + 1_000,
            "duration_ns": 2_000,
            "thread": _THREAD,
            "correlation_id": kernels["correlation_id"].to_numpy(),
        }
    )


def _modules() -> pd.DataFrame:
    leaves = [
        {"name": row[0], "type": row[1], "parameter_bytes": 0, "is_leaf": True, "calls": 1}
        for row in _LAYERS
    ]
    inner = [
        {"name": name, "type": kind, "parameter_bytes": 0, "is_leaf": False, "calls": 1}
        for name, kind in _INNER
    ]
    return pd.DataFrame([*inner, *leaves])


_INNER = (("", "Net"), ("block", "Sequential"))


def _layers() -> pd.DataFrame:
    blank = {
        "phase": "forward",
        "forward": -1,
        "parameter_bytes": 0,
        "allocated_bytes": -1,
        "peak_bytes": -1,
    }
    shapes = {"input_shapes": "[[8, 3, 4, 4]]", "output_shapes": "[[8, 64]]"}
    types = {"input_dtypes": '["float16"]', "output_dtypes": '["float16"]'}
    rows = [
        {"name": name, "type": kind, "kind": "module", "module": module, **blank, **shapes, **types}
        for name, kind, module, _, _ in _LAYERS
    ]
    nothing = dict.fromkeys([*shapes, *types], "[]")
    extra = [
        {"name": name, "type": "", "kind": "none", "module": "", **blank, **nothing}
        for name in ("(outside layers)", "(not in the structure run)")
    ]
    return pd.DataFrame([*rows, *extra])


def _kernels() -> pd.DataFrame:
    launch = {
        "registers_per_thread": 32,
        "static_shared_bytes": 0,
        "dynamic_shared_bytes": 0,
        "bytes": 0,
    }
    launch |= {f"{what}_{axis}": 1 for what in ("grid", "block") for axis in "xyz"}
    return pd.DataFrame([{"kind": kind, "name": name, **launch} for name, kind, *_ in _KERNELS])
