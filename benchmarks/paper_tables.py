"""Tables of docs/paper.md that have rows of the paper beside rows measured here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import paper_values
from paper_text import HERE, MIB, MISSING, V100, bound, number, percent, rows_of

WORK = ("GFLOP", "read, MiB", "written, MiB", "occupancy, %", "FLOP/B", "TFLOP/s")
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
    kinds = list(paper_values.TYPES)
    for _, _, _, here in kinds:
        left -= set(here)
    kinds.append(("other", "", paper_values.TYPES_OTHER, tuple(sorted(left))))
    yield "## Figure 4: kinds of layers"
    yield ""
    rows = [
        [what, there, ", ".join(here), *_shares(shares, mine, here, columns)]
        for what, there, shares, here in kinds
    ]
    yield from rows_of(heads, rows)
    yield ""
    yield "The same as time, the paper's shares being of its 275.05 ms:"
    yield ""
    rows = [[what, *_times(shares[1], mine, here)] for what, _, shares, here in kinds]
    yield from rows_of(["", "V100, about, ms", "here, ms", "times as fast"], rows)
    yield ""


def _times(share: float, mine: Mapping[str, Any], types: Sequence[str]) -> list[str]:
    """Time of kinds of layers there and here, and their ratio."""
    there = share / 100 * paper_values.BATCHES[paper_values.LARGEST][0]
    known = [mine[each]["latency_ms"] for each in types if each in mine]
    here = sum(known) if known and None not in known else None
    faster = None if not here else there / here
    return [number(there, 0), number(here, 2), number(faster, 1)]


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
        f"{counts['kernels_below_1_ms']} below 1 ms, of {counts['kernel_names']} names. First the "
        "paper's five (their names begin with `volta_`), each with the kernel of most time of the "
        "same layer here:"
    )
    yield ""
    heads = ["", "kernel", "layer", "ms", *WORK, "bound by"]
    rows = []
    for layer, index, name, *values in paper_values.KERNELS:
        rows.append([V100, f"`{name}`", str(index), *_numbers(values), bound(False)])
        kernel = row["chosen"].get(layer, {}).get("kernel")
        rows += [_our_kernel(kernel)] if kernel else []
    yield from rows_of(heads, rows)
    yield ""
    yield "The five of most time here:"
    yield ""
    yield from rows_of(heads, [_our_kernel(each) for each in row["kernels"]])
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


def _our_kernel(row: Mapping[str, Any]) -> list[str]:
    return [
        HERE,
        f"`{row['name']}`",
        f"`{row['layer']}`",
        number(row["latency_ms"], 3),
        *_work(row),
        bound(row["memory_bound"]),
    ]


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
