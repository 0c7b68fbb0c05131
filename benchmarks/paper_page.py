"""The tables of docs/paper.md from what benchmarks/paper.py measured. Nothing is computed here but
units, ratios and shares.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import paper_values
from paper_sweep import by_batch, by_way
from paper_tables import kernel_tables, layer_tables, type_table
from paper_text import MISSING, joined, number, percent, rows_of

from xsp.words.numbers import quantity

BEGIN, END = "<!-- figures -->", "<!-- end of figures -->"
PLAIN = "float32"
SHAPES = "worked out from arguments and shapes (every operand once, caches left out)"
SOURCES = {
    "counters": "FLOPs, DRAM bytes and occupancy are the hardware counters'",
    "mixed": f"FLOPs, DRAM bytes and occupancy are the hardware counters', else {SHAPES}",
    "analytic": f"No counters were collected: FLOPs and bytes are {SHAPES}, occupancy theoretical",
}


def write_page(results: Mapping[str, Any], page: Path) -> None:
    """Put the figures between the marks of docs/paper.md."""
    page.write_text(with_figures(page.read_text(encoding="utf-8"), results), encoding="utf-8")


def with_figures(text: str, results: Mapping[str, Any]) -> str:
    """The page with these results between its marks."""
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    figures = "\n".join(page_lines(results))
    return f"{before}{BEGIN}\n\n{figures}\n\n{END}{after}"


def page_lines(results: Mapping[str, Any]) -> list[str]:
    """The tables as markdown, each beside the paper's."""
    plain = results["ways"].get(PLAIN, {})
    if not plain:
        return ["Nothing has been measured yet."]
    largest = str(max(map(int, plain)))
    row = plain[largest]
    return [
        *_measured_on(results, plain),
        *_missing(results, plain),
        *_figure_2(plain),
        *layer_tables(row, largest),
        *type_table(row),
        *kernel_tables(row, largest),
        *by_batch(plain),
        *_bound(row, largest),
        *_summary(results, plain),
        *by_way(results["ways"]),
    ]


def _measured_on(results: Mapping[str, Any], plain: Mapping[str, Any]) -> Iterator[str]:
    machine = results["machine"]
    versions = (("torch", "torch"), ("CUDA", "cuda"), ("cuDNN", "cudnn"), ("driver", "driver"))
    known = [f"{name} {machine[key]}" for name, key in versions if machine.get(key)]
    rounds = [row["model"]["rounds"] for row in plain.values()]
    yield (
        f"Measured: {_model(results['measured'])} on one {machine['device']}, "
        f"{', '.join(known)}; batch sizes {joined(plain)}, "
        f"{min(rounds)} to {max(rounds)} rounds each."
    )
    for source in sorted({str(row["model"]["source"]) for row in plain.values()} - {""}):
        yield f"{SOURCES[source]}."
    yield ""


def _model(measured: Mapping[str, Any]) -> str:
    if not measured:
        return "a model that is not named"
    pixels = measured["pixels"]
    return f"torchvision's `{measured['model']}` with images of {pixels} × {pixels} pixels"


def _missing(results: Mapping[str, Any], plain: Mapping[str, Any]) -> Iterator[str]:
    """What is not there, said before any table."""
    absent = [str(batch) for batch in paper_values.BATCHES if str(batch) not in plain]
    if absent:
        yield f"Not measured: batch sizes {', '.join(absent)}."
        yield ""
    if any(not row["counts"]["kernels"] for row in plain.values()):
        yield (
            "**No kernels were traced** in these captures: the tables of kernels, the time of the "
            "GPU, rooflines and occupancy are missing, and layers' times are the host's."
        )
        yield ""
    for name, why in results["failures"].items():
        yield f"Failed: {name} ({why})."
        yield ""
    said = {
        warning: [batch for batch, row in plain.items() if warning in row["warnings"]]
        for row in plain.values()
        for warning in row["warnings"]
    }
    for warning, batches in said.items():
        yield f"- Batch {', '.join(batches)}: {warning}"
    if said:
        yield ""


def _figure_2(plain: Mapping[str, Any]) -> Iterator[str]:
    """What each rung adds, for the largest and the smallest batch."""
    yield "## Figure 2: what each level adds"
    yield ""
    ends = sorted({min(map(int, plain)), max(map(int, plain))}, reverse=True)
    heads = ["traced", "V100, batch 256", *(f"here, batch {batch}" for batch in ends)]
    rungs = [each["rung"] for each in plain[str(ends[0])]["rungs"]]
    named = {"M/L/Lib/K": "M/L/G"}
    rows = []
    for rung in rungs:
        theirs = paper_values.FIGURE_2.get(named.get(rung, rung))
        cells = [rung, MISSING if theirs is None else number(theirs, 1)]
        for batch in ends:
            found = {each["rung"]: each for each in plain[str(batch)]["rungs"]}.get(rung)
            cells.append(
                f"{number(found['latency_ms'], 3)} ± {number(found['ci_ms'], 3)}"
                if found
                else MISSING
            )
        rows.append(cells)
    yield from rows_of([heads[0], *(f"{head}, ms" for head in heads[1:])], rows)
    yield ""
    yield "Added to the model's latency by each level, as a share of it:"
    yield ""
    yield from rows_of(["", *heads[1:]], _added(plain, ends))
    yield ""
    yield from _first_layer(plain[str(ends[0])]["first_layer"], ends[0])


def _added(plain: Mapping[str, Any], ends: Sequence[int]) -> Iterator[list[str]]:
    model = paper_values.FIGURE_2["M"]
    layers, kernels = paper_values.FIGURE_2["M/L"], paper_values.FIGURE_2["M/L/G"]
    theirs = {"M/L": (layers - model) / model, "M/L/Lib/K": (kernels - layers) / model}
    rungs = [each["rung"] for each in plain[str(ends[0])]["rungs"]][1:]
    for rung in rungs:
        cells = [rung, percent(theirs.get(rung))]
        for batch in ends:
            overhead = plain[str(batch)]["overhead"]
            mine = [row for row in overhead if (row["rung"], row["level"]) == (rung, "MODEL")]
            for row in mine[:1]:
                half = row["added_ci_ms"]
                cells.append(
                    f"{percent(row['added_share'])} ({number(row['added_ms'], 3)} ± "
                    f"{number(half, 3)} ms, {row['events']} records)"
                )
        yield cells


def _first_layer(layer: Mapping[str, Any], batch: int) -> Iterator[str]:
    if not layer:
        return
    times = ", ".join(
        f"{number(each['host_us'], 0)} ± {number(each['ci_us'], 0)} µs in {rung}"
        for rung, each in layer["rungs"].items()
    )
    added = paper_values.FIRST_LAYER_ADDED_MS
    traced = layer["kernels"] is not None
    kernels = quantity(layer["kernels"], "kernel") if traced else "its kernels were not traced"
    yield (
        f"The paper's first convolution takes 5.1 ms with 3 kernels, to which tracing kernels adds "
        f"{added} ms. Here, at batch {batch}, `{layer['name']}` ({kernels}) takes on the host "
        f"{times}."
    )
    yield ""


def _bound(row: Mapping[str, Any], largest: str) -> Iterator[str]:
    """Figures 6, 8 and 9 in words."""
    yield f"## Figures 6, 8 and 9: what bounds kernels and layers, batch {largest}"
    yield ""
    split, rooflines = row["gpu_vs_nongpu"], row["rooflines"]
    if split["gpu_ms"] is None:
        yield "Not known: no kernels were traced."
        yield ""
        return
    whole = split["gpu_ms"] + split["nongpu_ms"]
    yield (
        f"Of the layers' {number(whole, 2)} ms the GPU is busy for {number(split['gpu_ms'], 2)} "
        f"({percent(split['gpu_ms'] / whole)}); {split['mostly_waiting']} of {split['layers']} "
        "layers wait for more than half of their time."
    )
    kernels = rooflines["kernels"]
    yield (
        f"Of {kernels['count']} kernels {kernels['known']} have known operations and bytes, "
        f"{kernels['memory_bound']} of them are memory-bound, with "
        f"{percent(kernels['memory_bound_share'])} of all kernels' time."
    )
    yield ""
    counts = rooflines["memory_bound_by_type"]
    yield from rows_of(
        ["type of layer", "memory-bound", "of"],
        [[f"`{name}`", str(bound), str(known)] for name, (bound, known) in counts.items()],
    )
    yield ""
    yield from _convolutions_said(row["convolutions"])
    yield (
        "In the paper convolutions, `MatMul`, `BiasAdd` and `Softmax` are compute-bound; `Add`, "
        "`Mul` and `Relu` memory-bound."
    )
    yield ""


def _convolutions_said(found: Mapping[str, Any]) -> Iterator[str]:
    if found["flops"] is None or not found["defined_flops"]:
        return
    yield (
        f"Of {found['layers']} convolutions {found['by_fft']} are computed by FFT. "
        f"{found['fewer']} execute fewer operations than their definition has (down to "
        f"{number(found['least'], 2)} times), {found['more']} more (up to "
        f"{number(found['most'], 2)} times); all together {number(found['flops'], 0, 1e9)} GFLOP "
        f"instead of {number(found['defined_flops'], 0, 1e9)}."
    )
    yield ""


def _summary(results: Mapping[str, Any], plain: Mapping[str, Any]) -> Iterator[str]:
    """Tables VII, VIII and IX, the model's rows."""
    batches = sorted(map(int, plain))
    first, last = plain[str(batches[0])], plain[str(batches[-1])]
    optimal = results["optimal"][PLAIN]
    most = max(row["model"]["throughput_per_s"] for row in plain.values())
    peaks = {row["resource"]: row["per_s"] for row in reversed(results["machine"]["peaks"])}
    flops, bytes_per_s = peaks.get("fp32"), peaks.get("dram")
    ideal = results["machine"]["ideal_intensity"].get("fp32")
    latency, throughput, size, convolutions = paper_values.SUMMARY
    tflops, gigabytes, their_ideal = paper_values.SYSTEM
    total, kernels, flop, *_ = paper_values.BATCHES[size]
    model = last["model"]
    stages = "".join(each or MISSING for each in last["stages"].values())
    online = first["model"]["latency_ms"] if batches[0] == 1 else None
    rows = [
        ["peak of float32, TFLOP/s", number(tflops, 1), number(flops, 1, 1e12)],
        ["memory, GB/s", number(gigabytes, 0), number(bytes_per_s, 0, 1e9)],
        ["ideal intensity of float32, FLOP/byte", number(their_ideal, 2), number(ideal, 2)],
        ["latency at batch 1, ms", number(latency, 2), number(online, 2)],
        ["inputs/s at most", number(throughput, 1), number(most, 1)],
        ["optimal batch size", str(size), str(optimal["batch_size"] or MISSING)],
        [
            "convolutions' share of the layers' time",
            percent(convolutions / 100),
            percent(_convolutions(last)),
        ],
        ["kernels' time in the latency", percent(kernels / total), percent(_kernels_share(model))],
        [
            "share of the float32 peak",
            percent(flop / kernels / tflops),
            percent(_of_peak(model, flops)),
        ],
        ["third with most latency, memory, FLOPs, traffic", paper_values.STAGES, stages],
    ]
    yield f"## Tables VII, VIII and IX: the model in one column, batch {batches[-1]}"
    yield ""
    yield from rows_of(["", "V100", "here"], rows)
    yield ""
    yield f"Optimal batch size here: {optimal['reason']}."
    yield ""


def _convolutions(row: Mapping[str, Any]) -> float | None:
    shares = {each["type"]: each["latency_ms_share"] for each in row["types"]}
    return shares.get("Conv2d")


def _kernels_share(model: Mapping[str, Any]) -> float | None:
    kernels = model["kernel_latency_ms"]
    return None if kernels is None else kernels / model["latency_ms"]


def _of_peak(model: Mapping[str, Any], peak: float | None) -> float | None:
    known = model["flops_per_s"] is not None and peak is not None
    return model["flops_per_s"] / peak if known else None
