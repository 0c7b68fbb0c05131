"""Tables of docs/paper.md over batch sizes and ways of computing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import paper_values
from paper_text import HERE, MIB, MISSING, bound, number, percent, rows_of


def by_batch(plain: Mapping[str, Any]) -> Iterator[str]:
    """Table VI with Figures 3 and 10."""
    yield "## Table VI, Figures 3 and 10: over batch sizes"
    yield ""
    heads = ["batch", "latency, ms, V100", HERE, "inputs/s, V100", HERE, "ratio"]
    heads += ["kernels, ms, V100", HERE, "kernels' share, V100", HERE]
    measured = [
        (size, paper_values.BATCHES.get(size), plain[str(size)]) for size in sorted(map(int, plain))
    ]
    yield from rows_of(heads, [_times(*each) for each in measured])
    yield ""
    heads = ["batch", "GFLOP, V100", HERE, "by definition"]
    heads += ["read, MiB, V100", HERE, "written, MiB, V100", HERE, "both, every operand once"]
    yield from rows_of(heads, [_moved(*each) for each in measured])
    yield ""
    heads = ["batch", "occupancy, %, V100", HERE, "FLOP/B, V100", HERE, "TFLOP/s, V100", HERE]
    yield from rows_of([*heads, "bound by, V100", HERE], [_roofline(*each) for each in measured])
    yield ""
    yield "Where the time goes from batch to batch, and the kernel of most time:"
    yield ""
    heads = ["batch", "GPU busy, ms", "waiting, ms", "kernels", "clock, MHz"]
    yield from rows_of([*heads, "kernel of most time", "ms"], [_split(*each) for each in measured])
    yield ""


def _times(size: int, theirs: Sequence[float] | None, row: Mapping[str, Any]) -> list[str]:
    model = row["model"]
    latency, kernels = model["latency_ms"], model["kernel_latency_ms"]
    there, of_kernels = theirs[:2] if theirs else (None, None)
    rate = None if there is None else 1e3 * size / there
    return [
        str(size),
        number(there, 2),
        f"{number(latency, 3)} ± {number(model['latency_ci_ms'], 3)}",
        number(rate, 1),
        number(model["throughput_per_s"], 1),
        number(None if there is None else there / latency, 2),
        number(of_kernels, 2),
        number(kernels, 3),
        percent(None if there is None or of_kernels is None else of_kernels / there),
        percent(None if kernels is None else kernels / latency),
    ]


def _moved(size: int, theirs: Sequence[float] | None, row: Mapping[str, Any]) -> list[str]:
    flops, read, written = theirs[2:5] if theirs else (None, None, None)
    model = row["model"]
    return [
        str(size),
        number(flops, 2),
        number(model["flops"], 2, 1e9),
        number(row["once"]["flops"], 2, 1e9),
        number(read, 0),
        number(model["dram_read_bytes"], 0, MIB),
        number(written, 0),
        number(model["dram_write_bytes"], 0, MIB),
        number(row["once"]["bytes"], 0, MIB),
    ]


def _roofline(size: int, theirs: Sequence[Any] | None, row: Mapping[str, Any]) -> list[str]:
    model = row["model"]
    occupancy = model["occupancy"]
    there = intensity = rate = memory = None
    if theirs:
        _, kernels, flops, read, written, there, memory = theirs
        intensity, rate = flops * 1e9 / ((read + written) * MIB), flops / kernels
    return [
        str(size),
        number(there, 1),
        number(None if occupancy is None else 100 * occupancy, 1),
        number(intensity, 1),
        number(model["arithmetic_intensity"], 1),
        number(rate, 2),
        number(model["flops_per_s"], 2, 1e12),
        bound(memory),
        bound(model["memory_bound"]),
    ]


def _split(size: int, _theirs: object, row: Mapping[str, Any]) -> list[str]:
    split, names = row["gpu_vs_nongpu"], row["names"]
    kernels = row["counts"]["kernels"]
    return [
        str(size),
        number(split["gpu_ms"], 3),
        number(split["nongpu_ms"], 3),
        MISSING if kernels is None else str(kernels),
        number(row["clock_mhz"], 0),
        f"`{names[0]['name']}`" if names else MISSING,
        number(names[0]["latency_ms"], 3) if names else MISSING,
    ]


WAYS = {
    "float32": "as above",
    "tf32": "TF32 allowed",
    "autotuned": "algorithms by `cudnn.benchmark`",
    "channels_last": "channels last",
}


def by_way(ways: Mapping[str, Any]) -> Iterator[str]:
    """The same model with one thing changed."""
    others = {name: rows for name, rows in ways.items() if name != "float32" and rows}
    if not others:
        return
    yield "## One thing changed"
    yield ""
    sizes = sorted({int(size) for rows in others.values() for size in rows}, reverse=True)
    heads = ["batch", "", "latency, ms", "kernels", "convolutions, ms", "normalisation, ms"]
    heads += ["GFLOP", "DRAM, MiB", "FLOP/B", "TFLOP/s", "kernel of most time", "ms"]
    rows = [
        _changed(size, WAYS[name], ways[name][str(size)])
        for size in sizes
        for name in WAYS
        if str(size) in ways.get(name, {})
    ]
    yield from rows_of(heads, rows)
    yield ""


def _changed(size: int, what: str, row: Mapping[str, Any]) -> list[str]:
    model, names = row["model"], row["names"]
    traffic = (model["dram_read_bytes"], model["dram_write_bytes"])
    by_type = {each["type"]: each["latency_ms"] for each in row["types"]}
    kernels = row["counts"]["kernels"]
    return [
        str(size),
        what,
        f"{number(model['latency_ms'], 3)} ± {number(model['latency_ci_ms'], 3)}",
        MISSING if kernels is None else str(kernels),
        number(by_type.get("Conv2d"), 3),
        number(by_type.get("BatchNorm2d"), 3),
        number(model["flops"], 1, 1e9),
        MISSING if None in traffic else number(sum(traffic), 0, MIB),
        number(model["arithmetic_intensity"], 1),
        number(model["flops_per_s"], 2, 1e12),
        f"`{names[0]['name']}`" if names else MISSING,
        number(names[0]["latency_ms"], 3) if names else MISSING,
    ]
