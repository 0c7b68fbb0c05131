"""What docs/paper.md needs of a capture, as numbers: XSP's analyses of a model at a batch size."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from paper_values import CHOSEN

from xsp import analysis
from xsp.analysis.models import compare_models
from xsp.analysis.peaks import ideal_intensities, peaks
from xsp.analysis.spans.statistics import trimmed
from xsp.analysis.work.layer_work import layer_work
from xsp.profiles import Profile
from xsp.sweeping.result import Sweep
from xsp.words.distinct import distinct_names

TOP = 5
"""Rows of the paper's tables of layers and kernels."""
BRIEF_MS = 1.0
"""The paper counts the layers and kernels below this."""
NAME_WIDTH = 60
TILED = re.compile(r"(sm\d+_xmma_[a-z]+)_.*?((?:tf32|cf32|f32|f16)\w*?)_.*(tilesize\d+x\d+x\d+)")
THIRDS = "BME"
CONVOLUTION = "Conv2d"
CLOSE = 0.05
"""A convolution that executes as much more or less than defined computes in another way."""
MACHINE = (
    "gpu",
    "driver",
    "cuda",
    "cudnn",
    "torch",
    "xsp",
    "python",
    "cpu",
    "cpu_count",
    "compute_capability",
    "multiprocessors",
    "max_sm_clock_mhz",
    "max_memory_clock_mhz",
    "memory_bus_bits",
    "power_limit_w",
)
"""What a reader must know of the machine."""
SWITCHES = ("allow_tf32", "cudnn_allow_tf32", "cudnn_benchmark")


def described(profile: Profile) -> dict[str, Any]:
    """The machine of a capture, with what its device can do."""
    facts = {name: profile.environment[name] for name in MACHINE if name in profile.environment}
    return facts | {
        "device": str(facts.get("gpu") or facts.get("cpu") or "unknown device"),
        "peaks": _records(peaks(profile)),
        "ideal_intensity": {
            name: _plain(value) for name, value in ideal_intensities(profile).items()
        },
    }


def optimal_batch(profiles: Mapping[int, Profile]) -> dict[str, Any]:
    """The optimal batch size by the paper's rule, and why."""
    found = Sweep("batch_size", dict(sorted(profiles.items())), {}).optimal_batch_size()
    return {"batch_size": found.batch_size, "reason": found.reason}


def capture_row(profile: Profile, tables: bool = True) -> dict[str, Any]:
    """One capture: figures of the whole (A1, A15, Table IX), and with `tables` those of single
    layers and kernels too.
    """
    single = {"layers": _top_layers, "chosen": _chosen_layers, "kernels": _top_kernels}
    return {
        "model": _model(profile),
        "switches": {name: profile.environment.get(name) for name in SWITCHES},
        "rungs": _rungs(profile),
        "first_layer": _first_layer(profile),
        "overhead": _records(profile.overhead()),
        "counts": _counts(profile),
        "names": _top_names(profile),
        "types": _types(profile),
        "gpu_vs_nongpu": _gpu_vs_nongpu(profile),
        "rooflines": _rooflines(profile),
        "once": _once(profile),
        "convolutions": _convolutions(profile),
        "stages": _stages(profile),
        "clock_mhz": _plain(profile.gpu_states["sm_clock_mhz"].median()),
        "throttled_by": sorted({str(each) for each in profile.gpu_states["throttled_by"] if each}),
        "warnings": list(profile.warnings),
        **({name: rows(profile) for name, rows in single.items()} if tables else {}),
    }


def _model(profile: Profile) -> dict[str, Any]:
    compared = _records(compare_models(profile))[0]
    [summed] = _records(analysis.kernels_by_model(profile))
    [information] = _records(analysis.model_information(profile))
    found = compared | summed | {"rounds": information["rounds"]}
    del found["top_kernel"]
    if not compared["kernels"]:
        found |= dict.fromkeys(("kernels", "kernel_latency_ms", "gpu_share"))
    return found


def _rungs(profile: Profile) -> list[dict[str, Any]]:
    """The model's latency as measured in each rung."""
    found = []
    for rung, runs in profile.runs.groupby("rung", sort=False):
        mean, half = trimmed(runs["latency_ns"] / 1e6)
        found.append({"rung": rung, "latency_ms": _plain(mean), "ci_ms": _plain(half)})
    return sorted(found, key=lambda each: len(each["rung"]))


def _first_layer(profile: Profile) -> dict[str, Any]:
    """The first layer's time on the host by rung; that of the device is in `layers`."""
    spans = profile.spans
    spans = spans[spans["level"] == "LAYER"]
    if not len(spans):
        return {}
    name = spans.sort_values("start_ns")["name"].iloc[0]
    rungs = {}
    for rung, calls in spans[spans["name"] == name].groupby("rung", sort=False):
        mean, half = trimmed(calls["duration_ns"] / 1e3)
        rungs[rung] = {"host_us": _plain(mean), "ci_us": _plain(half)}
    kernels = analysis.kernel_information(profile)
    return {
        "name": name,
        "rungs": dict(sorted(rungs.items(), key=lambda each: len(each[0]))),
        "kernels": int((kernels["layer"] == name).sum()) if len(kernels) else None,
    }


def _counts(profile: Profile) -> dict[str, Any]:
    layers = analysis.layer_information(profile)
    kernels = analysis.kernel_information(profile)
    traced = len(kernels) > 0
    return {
        "layers": len(layers),
        "layer_calls": int(analysis.layer_type_distribution(profile)["count"].sum()),
        "layers_below_1_ms": int((layers["latency_ms"] < BRIEF_MS).sum()),
        "kernels": len(kernels) if traced else None,
        "kernels_below_1_ms": int((kernels["latency_ms"] < BRIEF_MS).sum()) if traced else None,
        "kernel_names": int(kernels["name"].nunique()) if traced else None,
    }


def _top_layers(profile: Profile) -> list[dict[str, Any]]:
    """A2 with A11: the layers of most latency."""
    return _records(_layers(profile).nlargest(TOP, "latency_ms"))


def _chosen_layers(profile: Profile) -> dict[str, Any]:
    """The layers of the paper's Tables II and III, where the model has layers of these names, each
    with its kernel of most time.
    """
    layers = _layers(profile)
    rows = {row["name"]: row for row in _records(layers[layers["name"].isin(CHOSEN)])}
    kernels = analysis.kernel_information(profile).sort_values("latency_ms", ascending=False)
    first = kernels[kernels["layer"].isin(CHOSEN)].drop_duplicates("layer")
    for kernel in _records(first):
        rows[kernel["layer"]]["kernel"] = kernel
    return rows


def _layers(profile: Profile) -> pd.DataFrame:
    layers = analysis.layer_information(profile)
    kernels = analysis.kernels_by_layer(profile).drop(columns=["layer", "type", "phase"])
    joined = layers.merge(kernels, how="left", left_on="index", right_on="layer_index")
    return joined.drop(columns=["layer_index", "layer_latency_ms"])


def _top_kernels(profile: Profile) -> list[dict[str, Any]]:
    return _records(analysis.kernel_information(profile).nlargest(TOP, "latency_ms"))


def _top_names(profile: Profile) -> list[dict[str, Any]]:
    return _records(analysis.kernels_by_name(profile).head(TOP))


def with_short_names(rows: Sequence[dict[str, Any]]) -> None:
    """Give kernels names that are short, distinct, and the same in all rows."""
    named = [each for row in rows for each in (*row["names"], *row.get("kernels", ()))]
    chosen = [layer for row in rows for layer in row.get("chosen", {}).values()]
    named += [layer["kernel"] for layer in chosen if "kernel" in layer]
    short = _labels(sorted({each["name"] for each in named}))
    for each in named:
        each["name"] = short[each["name"]]


def _labels(names: Sequence[str]) -> dict[str, str]:
    """A label for each name: of kernels that tell their tile, family, operands and tile."""
    tiled = {name: found for name in names if (found := TILED.match(name))}
    others = distinct_names([name for name in names if name not in tiled], NAME_WIDTH)
    labels = {name: "_".join(found.groups()) for name, found in tiled.items()} | others
    count = Counter(labels.values())
    numbers: Counter[str] = Counter()
    for name, label in labels.items():
        if count[label] > 1:
            numbers[label] += 1
            labels[name] = f"{label} ({numbers[label]})"
    return labels


def _once(profile: Profile) -> dict[str, Any]:
    """FLOPs of all layers by their definition, and bytes if every operand moved once."""
    work = layer_work(profile.raw_tables("layers")["layers"])
    moved = work["read_bytes"] + work["write_bytes"]
    return {
        "flops": _plain(work["flops"].sum(min_count=1)),
        "bytes": _plain(moved.sum(min_count=1)),
    }


def _convolutions(profile: Profile) -> dict[str, Any]:
    """What convolutions execute over what their definition has, and how many compute by FFT."""
    recorded = profile.raw_tables("layers")["layers"]
    defined = recorded.assign(defined=layer_work(recorded)["flops"].to_numpy())
    sums = analysis.kernels_by_layer(profile).merge(
        defined.groupby("name")["defined"].sum(), left_on="layer", right_index=True
    )
    convolutions = sums[sums["type"] == CONVOLUTION]
    ratio = convolutions["flops"] / convolutions["defined"]
    kernels = analysis.kernel_information(profile)
    by_fft = kernels.loc[kernels["name"].str.contains("fft", na=False), "layer"]
    return {
        "layers": len(convolutions),
        "by_fft": int(by_fft.nunique()),
        "fewer": int((ratio < 1 - CLOSE).sum()),
        "more": int((ratio > 1 + CLOSE).sum()),
        "least": _plain(ratio.min()),
        "most": _plain(ratio.max()),
        "flops": _plain(convolutions["flops"].sum(min_count=1)),
        "defined_flops": _plain(convolutions["defined"].sum(min_count=1)),
    }


def _types(profile: Profile) -> list[dict[str, Any]]:
    """A5, A6 and A7 together."""
    table = analysis.layer_type_distribution(profile).rename(columns={"share": "count_share"})
    for other, column in (
        (analysis.layer_latency_by_type(profile), "latency_ms"),
        (analysis.layer_memory_by_type(profile), "allocated_bytes"),
    ):
        named = other[["type", column, "share"]].rename(columns={"share": f"{column}_share"})
        table = table.merge(named, how="outer", on="type", sort=False)
    return _records(table.sort_values("latency_ms", ascending=False))


def _gpu_vs_nongpu(profile: Profile) -> dict[str, Any]:
    """A13 of all layers; NaN where no kernels were traced."""
    table = analysis.gpu_vs_nongpu(profile)
    known = bool(table["gpu_ms"].notna().any())
    return {
        "gpu_ms": _plain(table["gpu_ms"].sum(min_count=1)),
        "nongpu_ms": _plain(table["nongpu_ms"].sum(min_count=1)),
        "layers": len(table),
        "mostly_waiting": int((table["nongpu_share"] > 0.5).sum()) if known else None,
    }


def _rooflines(profile: Profile) -> dict[str, Any]:
    """A9 and A14: how many kernels and types of layers are memory-bound, and for how much time."""
    kernels, layers = analysis.kernel_roofline(profile), analysis.layer_roofline(profile)
    known = layers[layers["memory_bound"].notna()]
    by_type = known.groupby("type")["memory_bound"].agg(["sum", "size"])
    return {
        "kernels": _bound(kernels),
        "layers": _bound(layers),
        "memory_bound_by_type": {
            str(name): [int(row["sum"]), int(row["size"])] for name, row in by_type.iterrows()
        },
        "highest_flops_per_s": _plain(kernels["flops_per_s"].max()),
    }


def _bound(table: pd.DataFrame) -> dict[str, Any]:
    known = table[table["memory_bound"].notna()]
    bound = known["memory_bound"].astype(bool)
    whole = table["latency_ms"].sum()
    return {
        "count": len(table),
        "known": len(known),
        "memory_bound": int(bound.sum()),
        "known_share": _plain(known["latency_ms"].sum() / whole if whole else math.nan),
        "memory_bound_share": _plain(
            known.loc[bound, "latency_ms"].sum() / whole if whole and len(known) else math.nan
        ),
    }


def _stages(profile: Profile) -> dict[str, str | None]:
    """Which third of the layers has most of each quantity: B, M or E, as in Table IX."""
    metrics = analysis.layer_metrics(profile)
    layers = analysis.layer_information(profile)
    traffic = metrics["dram_read_bytes"] + metrics["dram_write_bytes"]
    return {
        "latency": _stage(layers["latency_ms"]),
        "allocated_memory": _stage(layers["allocated_bytes"]),
        "flops": _stage(metrics["flops"]),
        "memory_access": _stage(traffic),
    }


def _stage(values: pd.Series[float]) -> str | None:
    if not len(values) or not values.notna().any():
        return None
    third = np.arange(len(values)) * len(THIRDS) // len(values)
    sums = np.bincount(third, weights=values.fillna(0.0), minlength=len(THIRDS))
    return THIRDS[int(sums.argmax())]


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [
        {str(name): _plain(value) for name, value in row.items()}
        for row in table.to_dict("records")
    ]


def _plain(value: Any) -> Any:
    """A value as JSON has it: six digits, and None for what is not known."""
    if value is None or value is pd.NA:
        return None
    if isinstance(value, str | bool | int):
        return value
    if isinstance(value, np.bool_ | np.integer):
        return value.item()
    number = float(value)
    return float(f"{number:.6g}") if math.isfinite(number) else None
