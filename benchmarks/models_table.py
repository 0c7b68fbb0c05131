"""docs/models.md from the rows that benchmarks/models.py wrote; needs neither torch nor a GPU.

    python benchmarks/models_table.py examples/captures/models > docs/models.md

What people found in the numbers is written by hand in findings.md beside the rows, and is put
before the tables.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from xsp.sweeping.batch_size import optimal_batch_size
from xsp.words.labels import shorten, telling_kernel_name

ROWS, FINDINGS = "models.json", "findings.md"
Row = Mapping[str, Any]
Column = tuple[str, Callable[[Row], str]]


def page(folder: Path) -> str:
    """The whole of docs/models.md."""
    saved = json.loads((folder / ROWS).read_text(encoding="utf-8"))
    findings = folder / FINDINGS
    rows: dict[str, Row] = saved["rows"]
    models = {name: row for name, row in rows.items() if "value" not in row}
    swept = {name: row for name, row in rows.items() if "value" in row}
    parts = [
        _INTRODUCTION.format(count=len(models), **_where(rows)),
        findings.read_text(encoding="utf-8").strip() if findings.exists() else "",
        *_tables(models),
        _sweep(swept) if swept else "",
        _failures(rows, saved.get("failures", {})),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


_INTRODUCTION = """# {count} models

What xsp says of {count} models with random weights from torchvision, timm, transformers and this repository
(`benchmarks/zoo.py`, `examples/`), each profiled for a few rounds, on: {device}.

The captures are in `examples/captures/models/`;
`xsp report` opens them, and `benchmarks/models.py` records them anew. The tables are made from them by
`benchmarks/models_table.py`; none of their numbers is written by hand."""

_FIRST = """## Latency

Latency is unprofiled, call to device finished, with half its 95 % interval. GPU-busy is the share of it in which the
GPU has work: far below 100 % the host's launches are what the model waits for. Closure is how far the corrected
timeline of the deepest rung is from the unprofiled latency, with its 95 % interval; lost counts events known to be
missing. "amp" is float16 by autocast, with float32 weights."""

_SECOND = """## Where the GPU's time goes

Convolutions and products (GEMM): by the type of layer, and by the library call that launched the kernel where that
differs by a percentage point or more. Intensity is FLOPs per byte of DRAM traffic, rate is FLOP/s over the kernels'
time, and a model is memory-bound if its intensity is below the one at which the GPU's peaks meet (XSP, section III-D).
Thirds: share of the layers' latency in the beginning, middle and end third of the layers."""

_THIRD = """## ResNet-50 over batch sizes

{optimal}"""


def _where(rows: Mapping[str, Row]) -> dict[str, str]:
    devices = {row["device"] for row in rows.values()}
    return {"device": "; ".join(sorted(devices))}


def _tables(models: Mapping[str, Row]) -> Iterable[str]:
    ordered = sorted(
        models.values(), key=lambda row: (str(row["family"]), str(row["summary"]["name"]))
    )
    yield f"{_FIRST}\n\n{_markdown([*_NAMES, *_LATENCY], ordered)}"
    sources = sorted({str(row["summary"]["source"]) for row in ordered} - {""})
    note = f"FLOPs, bytes and occupancy come from: {', '.join(sources)}." if sources else ""
    yield "\n\n".join(
        part for part in (_SECOND, note, _markdown([_NAMES[0], *_GPU], ordered)) if part
    )


def _sweep(rows: Mapping[str, Row]) -> str:
    ordered = sorted(rows.values(), key=lambda row: int(row["value"]))
    found = optimal_batch_size(
        {
            int(row["value"]): (
                row["summary"]["latency_ms"],
                _number(row["summary"]["latency_ci_ms"]),
            )
            for row in ordered
        }
    )
    optimal = f"Optimal batch size by the paper's rule: {found}."
    return (
        f"{_THIRD.format(optimal=optimal)}\n\n{_markdown([_SIZE, *_LATENCY, *_GPU[:-2]], ordered)}"
    )


def _failures(rows: Mapping[str, Row], unmeasured: Mapping[str, str]) -> str:
    lines = [
        f"- {name} was not measured: {why.splitlines()[0]}" for name, why in unmeasured.items()
    ]
    lines += [
        f"- {name}, {which}: {why}"
        for name, row in rows.items()
        for which, why in row["failures"].items()
    ]
    every = len(next(iter(rows.values()))["lines"]) if rows else 0
    said = (
        "\n".join(lines)
        if lines
        else f"None: each of the {every} analyses gave a table for each of {len(rows)} captures."
    )
    return f"## What failed\n\n{said}"


def _markdown(columns: Iterable[Column], rows: Iterable[Row]) -> str:
    columns = list(columns)
    lines = [[name for name, _ in columns], ["---"] * len(columns)]
    lines += [[_cell(of(row)) for _, of in columns] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def _of(key: str, form: Callable[[Any], str]) -> Callable[[Row], str]:
    """A value of the summary in a form; a dash where it is not known."""
    return lambda row: "–" if row["summary"][key] is None else form(row["summary"][key])


def _percent(value: float) -> str:
    return f"{value:.0%}"


def _latency(row: Row) -> str:
    half = row["summary"]["latency_ci_ms"]
    return f"{row['summary']['latency_ms']:.2f}" + ("" if half is None else f" ± {half:.2f}")


def _closure(row: Row) -> str:
    error, low, high = (row["summary"][f"closure_{name}"] for name in ("error", "low", "high"))
    return "–" if error is None else f"{error:+.1%} ({low:+.0%} to {high:+.0%})"


def _both(what: str) -> Callable[[Row], str]:
    def form(row: Row) -> str:
        layer, kernel = (row["summary"][f"{what}{by}_share"] for by in ("", "_kernel"))
        if layer is None:
            return "–"
        differs = kernel is not None and abs(layer - kernel) >= 0.01
        return _percent(layer) + (f" ({_percent(kernel)})" if differs else "")

    return form


def _thirds(row: Row) -> str:
    parts = [row["summary"][f"{part}_share"] for part in ("beginning", "middle", "end")]
    return "–" if None in parts else " / ".join(f"{part * 100:.0f}" for part in parts)


def _code(width: int) -> Callable[[Any], str]:
    return lambda name: f"`{shorten(telling_kernel_name(str(name)), width)}`" if name else "–"


_NAMES: list[Column] = [
    ("model", lambda row: str(row["summary"]["name"])),
    ("family", lambda row: str(row["family"])),
    ("from", lambda row: str(row["source"])),
    ("precision", lambda row: str(row["precision"])),
    ("batch", _of("batch_size", str)),
]
_SIZE: Column = ("batch", lambda row: str(row["value"]))
_LATENCY: list[Column] = [
    ("latency, ms", _latency),
    (
        "inputs/s",
        _of("throughput_per_s", lambda value: f"{value:,.0f}" if value >= 100 else f"{value:.1f}"),
    ),
    ("layers", _of("layers", str)),
    ("kernels", _of("kernels", str)),
    ("GPU-busy", _of("gpu_share", _percent)),
    ("closure", _closure),
    ("lost", _of("lost", str)),
]
_GPU: list[Column] = [
    ("convolution", _both("convolution")),
    ("GEMM", _both("gemm")),
    ("memory-bound", _of("memory_bound", lambda bound: "yes" if bound else "no")),
    ("intensity, FLOP/B", _of("arithmetic_intensity", lambda value: f"{value:.0f}")),
    ("rate, TFLOP/s", _of("flops_per_s", lambda value: f"{value / 1e12:.1f}")),
    ("occupancy", _of("occupancy", _percent)),
    ("thirds, %", _thirds),
    ("most latency: layers", _of("top_layer_type", lambda name: f"`{name}`")),
    ("most time: kernel", _of("top_kernel", _code(40))),
]

if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="with the rows and findings")
    sys.stdout.write(page(parser.parse_args().folder))
