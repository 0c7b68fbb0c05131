"""One row of benchmarks/bounds.py: a model with its bound, or layers through every algorithm."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from xsp.bounds.algorithms import candidates, missing_tools, tools
from xsp.bounds.known import DEFAULTS, Known
from xsp.bounds.lower_bound import lower_bound
from xsp.bounds.running import measure_missing, this_machine
from xsp.bounds.timers import timer_for
from xsp.bounds.timing import Prepared, Timed, raced
from xsp.bounds.wanted import ALL, Wanted, wanted_of
from xsp.cli.bound import as_json
from xsp.graphs.from_export import graph_of
from xsp.graphs.layer import CHANNELS_LAST, CONTIGUOUS, Layer, TensorType

if TYPE_CHECKING:
    from xsp.database.entry import Entry
    from xsp.database.store import Store

PLANS = 12
"""Plans of cuDNN and cuBLASLt for a variant, in the order in which they expect them to be fast. On
an H200 the best of twelve was 0.1 % slower than the best of all in the mean, and 2 % at most.
"""
EACH_S = 0.1
"""Seconds for one algorithm at most; most take a hundredth of it."""


class Steps:
    """Seconds that each step of a row took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        begin = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = round(time.monotonic() - begin, 2)


def model_row(
    name: str,
    model: Any,
    inputs: Any,
    store: Store,
    device: str,
    layers_s: float,
    profile_s: float,
) -> dict[str, Any]:
    """Measure a model and its layers, and say what there is to say: bound, ratio, findings."""
    import torch

    import xsp

    steps = Steps()
    args, kwargs = (inputs, {}) if isinstance(inputs, tuple) else ((), inputs)
    with steps.step("graph"):
        graph = graph_of(model, args, kwargs, name=name)
    with steps.step("profile"), torch.no_grad():
        prof = xsp.measure(model, *args, budget_s=profile_s, progress=False, **kwargs)
    with steps.step("layers"):
        wanted = wanted_of([graph], device, most=PLANS)
        done = measure_missing(
            store, wanted, device, budget_s=layers_s, each_s=EACH_S, progress=False
        )
    with steps.step("answers"):
        found = lower_bound(prof, store, graph=graph)
        notes: list[str] = []
        try:
            answers = prof.findings(found)
        except Exception as error:  # the bound stands without them
            answers, notes = [], [f"no findings: {type(error).__name__}: {error}"]
        row = as_json(found, answers)
    return row | {
        "ratio": finite(found.ratio),
        "parallel_ratio": finite(found.parallel_ms / found.latency_ms),
        "gpu_busy_ms": finite(float(prof.tree()["device_ms"].iloc[0])),
        "keys": sorted({layer.digest for layer in graph.layers}),
        "measured_layers": done.layers,
        "algorithms": done.algorithms,
        "failed_algorithms": done.failed,
        "left": dict(done.left),
        "notes": [*done.notes, *notes, *graph.notes, *prof.warnings],
        "closure": finite(float(prof.closure_error["error"].iloc[-1]))
        if len(prof.closure_error)
        else None,
        "above": above(found),
        "steps_s": steps.seconds,
    }


def above(found: Any) -> list[dict[str, Any]]:
    """Layers whose bound lies above what was measured, beyond the bound's interval and 2 %: each
    must be explained.
    """
    table = found.layers.dropna(subset=["bound_ms", "measured_ms"])
    table = table[~table["owner"].duplicated(keep=False)]
    limit = 1.02 * table["measured_ms"] + table["half_width_ms"].fillna(0.0)
    columns = ["name", "operator", "bound_ms", "measured_ms", "algorithm"]
    rows: list[dict[str, Any]] = table.loc[table["bound_ms"] > limit, columns].to_dict("records")
    return rows


# ---- every algorithm of single layers ----


def algorithms_row(store: Store, device: str, budget_s: float) -> dict[str, Any]:
    """ResNet-50's unique layers over all algorithms: how long it takes, how many there are, what
    the best is against PyTorch's choice, and how long the same takes from the database.
    """
    import zoo

    model, inputs = zoo.target(zoo.ZOO["resnet50"], 32 if device == "cuda" else 1, device)
    if not isinstance(inputs, tuple):
        raise TypeError(f"ResNet-50 takes its image by position, not {sorted(inputs)}")
    graph = graph_of(model, inputs, name="resnet50")
    wanted = wanted_of([graph], device, with_variants=False)
    done = measure_missing(store, wanted, device, budget_s=budget_s, each_s=EACH_S, progress=True)
    begin = time.monotonic()
    again = measure_missing(store, wanted, device, progress=False)
    repeat_s = time.monotonic() - begin
    entries = store.entries(this_machine(device), [each.layer for each in wanted])
    rows = [layer_row(each.layer, each.precision, entries) for each in wanted]
    return {
        "unique_layers": len(wanted),
        "measured": done.layers,
        "unfinished": done.unfinished,
        "algorithms": done.algorithms,
        "failed": done.failed,
        "measure_s": done.seconds,
        "repeat_s": repeat_s,
        "repeated": again.layers,
        "tools": tools(),
        "notes": missing_tools(device),
        "layers": [row for row in rows if row is not None],
    }


def layer_row(layer: Layer, precision: str, entries: list[Entry]) -> dict[str, Any] | None:
    """The best algorithm of a layer beside PyTorch's choice; None where one is not known."""
    ranked = Known(entries).of(layer, precision)
    default = [entry for entry in ranked if entry.algorithm in DEFAULTS]
    if not ranked or not default:
        return None
    tried = [
        entry
        for entry in entries
        if (entry.layer.digest, entry.precision) == (layer.digest, precision)
        and entry.algorithm != ALL
    ]
    return {
        "operator": layer.operator,
        "input": str(layer.inputs[0]),
        "weight": str(layer.weights[0]) if layer.weights else "",
        "layout": layer.layout,
        "algorithms": len(tried),
        "ran": len(ranked),
        "best": ranked[0].algorithm,
        "best_us": _time_us(ranked[0]),
        "best_half_width_us": (ranked[0].half_width_ns or 0.0) / 1e3,
        "pytorch_us": _time_us(default[0]),
        "pytorch_half_width_us": (default[0].half_width_ns or 0.0) / 1e3,
        "sm_clock_mhz": ranked[0].provenance.get("sm_clock_mhz"),
    }


def claimed_layers() -> dict[str, tuple[Layer, str]]:
    """Layers of which gaps were claimed between PyTorch's choice and the best algorithm, by name,
    with the claim. They had been seen with events around twenty calls, launches included.
    """
    found = {}
    claim = "45.4 µs by PyTorch against 33.9 µs by the best plan, for one of these"
    for batch, channels, pixels, filters, kernel, pad in (
        (1, 64, 56, 64, 3, 1),
        (32, 256, 14, 256, 3, 1),
        (32, 64, 56, 256, 1, 0),
    ):
        for layout in (CONTIGUOUS, CHANNELS_LAST):
            shape = f"{batch} x {channels} x {pixels}² to {filters} by {kernel} x {kernel}"
            found[f"convolution {shape}, {layout}"] = (
                Layer(
                    "",
                    "convolution",
                    (TensorType((batch, channels, pixels, pixels), "float16"),),
                    (TensorType((filters, channels, kernel, kernel), "float16"),),
                    (TensorType((batch, filters, pixels, pixels), "float16"),),
                    {"stride": [1, 1], "padding": [pad, pad], "dilation": [1, 1], "groups": 1},
                    layout,
                ),
                claim,
            )
    kind = TensorType((8192, 8192), "float16")
    found["product of 8192³"] = (
        Layer("", "linear", (kind,), (kind,), (kind,)),
        "1,815 µs by PyTorch against 1,479 µs by the best algorithm",
    )
    return found


def claims_row(store: Store, device: str) -> dict[str, Any]:
    """Each claimed gap by device times: of all algorithms, and then of PyTorch's choice and the
    best in turn, since the least of many measured times is too small by chance.
    """
    rows = {}
    for name, (layer, claim) in claimed_layers().items():
        measure_missing(store, [Wanted(layer, "fp16")], device, progress=False)
        row = layer_row(layer, "fp16", store.entries(this_machine(device), [layer]))
        if row is None:
            rows[name] = {"claim": claim, "error": "PyTorch's choice could not be timed"}
            continue
        rows[name] = {"claim": claim, **row, **_in_turn(layer, row["best"], device)}
    return {"rows": rows}


def _in_turn(layer: Layer, best: str, device: str) -> dict[str, Any]:
    chosen = {}
    for each in candidates(layer, "fp16", device):
        if each.algorithm in {*DEFAULTS, best}:
            with each.under():
                chosen[each.algorithm] = Prepared(each.prepare(), each.under, to_the_end=True)
    results = raced(timer_for(device), list(chosen.values()), "warm", budget_s=1.0, target=0.003)
    times = {
        name: [each.time_ns / 1e3, each.half_width_ns / 1e3]
        for name, each in zip(chosen, results, strict=True)
        if isinstance(each, Timed)
    }
    return {"in_turn_us": times}


def finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _time_us(entry: Entry) -> float:
    """Of an entry that was timed, as all are that `Known` ranks."""
    assert entry.time_ns is not None
    return entry.time_ns / 1e3
