"""Tables of docs/paper.md that have rows of the paper beside rows measured here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import paper_values
from paper_text import MIB, MISSING, bound, number, percent, rows_of

WORK = ("GFLOP", "read, MiB", "written, MiB", "occupancy, %", "FLOP/B", "TFLOP/s")
V100, HERE = "V100", "here"
UNTRACED = "Nothing beside it here: no kernels were traced."


def _work(row: Mapping[str, Any]) -> list[str]:
    occupancy = row["occupancy"]
    return [
        number(row["flops"], 2, 1e9),
        number(row["dram_read_bytes"], 2, MIB),
        number(row["dram_write_bytes"], 2, MIB),
        number(None if occupancy is None else 100 * occupancy, 2),
        number(row["arithmetic_intensity"], 2),
        number(row["flops_per_s"], 2, 1e12),
    ]


def _numbers(values: Sequence[float]) -> list[str]:
    return [number(value, 2) for value in values]


def layer_tables(row: Mapping[str, Any], largest: str) -> Iterator[str]:
    """Tables II and V: the paper's five layers here, and the five of most latency here."""
    counts, theirs = row["counts"], paper_values.COUNTS
    yield f"## Tables II and V: the layers of most latency, batch {largest}"
    yield ""
    yield (
        f"The paper has {theirs['layer_calls']} layers, {theirs['layers_below_1_ms']} of them "
        f"below 1 ms; here are {counts['layer_calls']} calls of {counts['layers']} layers, "
        f"{counts['layers_below_1_ms']} of these below 1 ms. First the paper's five:"
    )
    yield ""
    heads = ["", "layer", "ms", "allocated, MiB", "kernels, ms", *WORK]
    rows = []
    for name, (index, tensorflow, *values) in paper_values.LAYERS.items():
        rows.append([V100, f"{index} {tensorflow}", *_numbers(values)])
        if name in row["chosen"]:
            rows.append([HERE, f"`{name}`", *_layer(row["chosen"][name])])
    yield from rows_of(heads, rows)
    yield ""
    yield "The five of most latency here:"
    yield ""
    heads = ["layer", "type", "output", *heads[2:], "bound by"]
    yield from rows_of(heads, [_our_layer(each) for each in row["layers"]])
    yield ""


def _layer(row: Mapping[str, Any]) -> list[str]:
    return [
        number(row["latency_ms"], 3),
        number(row["allocated_bytes"], 1, MIB),
        number(row["kernel_latency_ms"], 3),
        *_work(row),
    ]


def _our_layer(row: Mapping[str, Any]) -> list[str]:
    return [
        f"`{row['name']}`",
        row["type"],
        row["shape"],
        *_layer(row),
        bound(row["memory_bound"]),
    ]


def type_table(row: Mapping[str, Any]) -> Iterator[str]:
    """Figure 4: shares of kinds of layers."""
    columns = ("count_share", "latency_ms_share", "allocated_bytes_share")
    mine = {each["type"]: each for each in row["types"]}
    left = set(mine)
    heads = ["", "types there", "types here"]
    heads += [
        f"{what}, {where}" for what in ("layers", "latency", "memory") for where in (V100, HERE)
    ]
    rows = []
    for what, there, shares, here in paper_values.TYPES:
        left -= set(here)
        rows.append([what, there, ", ".join(here), *_shares(shares, mine, here, columns)])
    rest = sorted(left)
    rows.append(
        ["other", "", ", ".join(rest), *_shares(paper_values.TYPES_OTHER, mine, rest, columns)]
    )
    yield "## Figure 4: kinds of layers"
    yield ""
    yield from rows_of(heads, rows)
    yield ""


def _shares(
    theirs: Sequence[float],
    mine: Mapping[str, Any],
    types: Sequence[str],
    columns: Sequence[str],
) -> Iterator[str]:
    for share, column in zip(theirs, columns, strict=True):
        known = [mine[each][column] for each in types if each in mine]
        known = [each for each in known if each is not None]
        yield f"{share:.1f} %"
        yield percent(sum(known)) if known else MISSING


def kernel_tables(row: Mapping[str, Any], largest: str) -> Iterator[str]:
    """Tables III and IV: single kernels, and kernels by name."""
    counts, theirs = row["counts"], paper_values.COUNTS
    yield f"## Table III: the kernels of most time, batch {largest}"
    yield ""
    if counts["kernels"] is None:
        yield UNTRACED
        yield ""
        return
    yield (
        f"The paper has {theirs['kernels']} kernels, {theirs['kernels_below_1_ms']} of them below "
        f"1 ms, of {theirs['kernel_names']} names; here are {counts['kernels']}, "
        f"{counts['kernels_below_1_ms']} below 1 ms, of {counts['kernel_names']} names."
    )
    yield ""
    rows = [
        [V100, name, layer, *_numbers(values), bound(memory)]
        for name, layer, *values, memory in paper_values.KERNELS
    ]
    rows += [
        [
            HERE,
            f"`{each['name']}`",
            f"`{each['layer']}`",
            number(each["latency_ms"], 3),
            *_work(each),
            bound(each["memory_bound"]),
        ]
        for each in row["kernels"]
    ]
    yield from rows_of(["", "kernel", "layer", "ms", *WORK, "bound by"], rows)
    yield ""
    yield f"## Table IV: kernels by name, batch {largest}"
    yield ""
    rows = [
        [V100, name, str(count), *_numbers(values), bound(memory)]
        for name, count, *values, memory in paper_values.NAMES
    ]
    rows += [_our_name(each) for each in row["names"]]
    heads = ["", "kernel", "count", "ms", "% of the latency", *WORK, "bound by"]
    yield from rows_of(heads, rows)
    yield ""


def _our_name(row: Mapping[str, Any]) -> list[str]:
    return [
        HERE,
        f"`{row['name']}`",
        str(row["count"]),
        number(row["latency_ms"], 3),
        number(100 * row["share"], 2),
        *_work(row),
        bound(row["memory_bound"]),
    ]


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
    heads = ["batch", "GFLOP, V100", HERE, "read, MiB, V100", HERE, "written, MiB, V100", HERE]
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
        number(read, 0),
        number(model["dram_read_bytes"], 0, MIB),
        number(written, 0),
        number(model["dram_write_bytes"], 0, MIB),
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
    heads += ["GFLOP", "DRAM, MiB", "FLOP/B", "TFLOP/s", "kernel of most time"]
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
    ]
