"""The tables of docs/bounds.md from what benchmarks/bounds.py measured."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ALGORITHMS = "resnet50_algorithms"
CLAIMS = "claims"
BEGIN, END = "<!-- figures -->", "<!-- end of figures -->"

PAPER_FIGURES = (
    ("sequential Benanza Ratio, geometric mean (V100, batch 1, MXNet)", "0.88", "sequential"),
    ("parallel Benanza Ratio, geometric mean (the same)", "0.76", "parallel"),
    ("ResNet-50, batch 1: measured", "about 4.5 ms", "resnet50_latency"),
    ("ResNet-50, batch 1: sequential bound", "4.58 ms", "resnet50_sequential"),
    ("ResNet-50, batch 1: parallel bound", "3.78 ms", "resnet50_parallel"),
    ("unique layers of all layers", "18 % of 5,754", "unique"),
)
"""What the paper and its published data say, beside ours."""


def write_page(rows: Mapping[str, Any], applied: Mapping[str, Any], page: Path) -> None:
    """Put the figures between the marks of docs/bounds.md: of bounds, and of findings applied."""
    text = page.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    figures = "\n".join([*page_lines(rows), *applied_lines(applied)])
    page.write_text(f"{before}{BEGIN}\n\n{figures}\n\n{END}{after}", encoding="utf-8")


def page_lines(rows: Mapping[str, Any]) -> list[str]:
    """The section as markdown: our figures beside the paper's, then a row for each model."""
    models = {name: row for name, row in rows.items() if "bounds" in row}
    if not models:
        return ["Nothing has been measured yet."]
    machine = next(iter(models.values()))["machine"]
    device = machine.get("gpu") or machine.get("cpu")
    lines = [f"Measured on one {device}, torch {machine.get('torch')}.", ""]
    lines += [*_paper_table(models), "", *_model_table(models), "", *_sentences(rows, models)]
    return [*lines, *_claims(rows.get(CLAIMS, {}).get("rows", {}))]


def _paper_table(models: Mapping[str, Any]) -> Iterator[str]:
    ours = _ours(models)
    yield "| | Benanza (2020) | here |"
    yield "|---|---|---|"
    for what, paper, key in PAPER_FIGURES:
        yield f"| {what} | {paper} | {ours.get(key, '–')} |"


def _ours(models: Mapping[str, Any]) -> dict[str, str]:
    paper = {name: row for name, row in models.items() if name.startswith("paper/")}
    found = {}
    for key, column in (("sequential", "ratio"), ("parallel", "parallel_ratio")):
        values = [row[column] for row in paper.values() if row.get(column)]
        if values:
            mean = math.exp(sum(math.log(each) for each in values) / len(values))
            found[key] = f"{mean:.2f} (of {len(values)})"
    row = paper.get("paper/resnet50")
    if row:
        best = row["bounds"]["library's best"]
        found["resnet50_latency"] = f"{row['latency_ms']:.2f} ms"
        found["resnet50_sequential"] = f"{best['sequential_ms']:.2f} ms"
        if best["parallel_ms"] is not None:
            found["resnet50_parallel"] = f"{best['parallel_ms']:.2f} ms"
    if paper:
        layers = sum(row["layers"] for row in paper.values())
        unique = len({key for row in paper.values() for key in row["keys"]})
        found["unique"] = f"{unique / layers:.0%} of {layers:,}"
    return found


def _model_table(models: Mapping[str, Any]) -> Iterator[str]:
    heads = ("model", "layers (unique)", "measured ms", "GPU busy", "bound", "parallel", "ratio")
    yield f"| {' | '.join((*heads, 'fused', 'traffic', 'first finding'))} |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for name, row in models.items():
        bounds = row["bounds"]
        cells = [
            name,
            f"{row['layers']} ({row['unique']})",
            _ms(row["latency_ms"]),
            _ms(row["gpu_busy_ms"]),
            _ms(bounds["library's best"]["sequential_ms"]) + ("" if row["is_bound"] else " *"),
            _ms(bounds["library's best"]["parallel_ms"]),
            "–" if row["ratio"] is None else f"{row['ratio']:.2f}",
            _ms(bounds["fused"]["sequential_ms"]),
            _ms(bounds["ideal traffic"]["sequential_ms"]),
            _first_finding(row),
        ]
        yield f"| {' | '.join(cells)} |"


def _first_finding(row: Mapping[str, Any]) -> str:
    for each in row["findings"]:
        if each["question"] != 1:
            gain = f"{each['gain_ms']:.2f} ± {each['half_width_ms']:.2f} ms"
            return f"Q{each['question']} {each['kind']}: −{gain}"
    return ""


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _sentences(rows: Mapping[str, Any], models: Mapping[str, Any]) -> Iterator[str]:
    doubtful = [name for name, row in models.items() if not row["is_bound"]]
    if doubtful:
        yield (
            f"\\* no bound in the strict sense ({len(doubtful)} models): some layers were not "
            "measured in the time, or at another clock; the JSON says which."
        )
        yield ""
    left: Counter[str] = Counter()
    for row in models.values():
        left.update(row.get("left", {}))
    if left:
        listed = ", ".join(f"{name}: {count}" for name, count in left.items())
        yield f"Layers left unmeasured for want of time, by what asks for them: {listed}."
        yield ""
    over = [each for row in models.values() for each in row["above"]]
    layers = sum(row["layers"] for row in models.values())
    which = ", ".join(sorted({each["operator"] for each in over}))
    yield (
        f"{len(over)} of {layers} layers took less in the model than alone at their best, by more "
        f"than the interval and 2 %{': ' + which if which else ''}."
    )
    failed = {name: row["error"] for name, row in rows.items() if "error" in row}
    if failed:
        yield ""
        listed = "; ".join(f"{name} ({error[:120]})" for name, error in failed.items())
        yield f"Not measured: {listed}."
    row = rows.get(ALGORITHMS, {})
    if "measure_s" in row:
        yield ""
        yield (
            f"ResNet-50, batch 32, half precision: {row['measured']} of its {row['unique_layers']} "
            f"unique layers, the others being known, through {row['algorithms']} algorithms in "
            f"{row['measure_s']:.0f} s ({row['failed']} could not run); the same from the database "
            f"in {row['repeat_s']:.2f} s."
        )
        yield _largest_gap(row["layers"])


def _largest_gap(layers: Sequence[Mapping[str, Any]]) -> str:
    """How much PyTorch's choice leaves, in one sentence."""
    layer = max(layers, key=lambda each: each["pytorch_us"] / each["best_us"])
    chosen, best = (sum(each[name] for each in layers) for name in ("pytorch_us", "best_us"))
    return (
        f"PyTorch's choices add up to {chosen:.0f} µs, the best algorithms to {best:.0f}; most is "
        f"left of the {layer['operator']} of {layer['input']} with {layer['weight']}, "
        f"{layer['pytorch_us']:.1f} against {layer['best_us']:.1f} µs."
    )


def _claims(rows: Mapping[str, Any]) -> Iterator[str]:
    """Gaps that were claimed, with what was found of them."""
    if not rows:
        return
    yield ""
    yield "Gaps that had been claimed from events around calls, by device times:"
    yield ""
    yield "| layer | claim | algorithms | PyTorch's choice, µs | the best, µs |"
    yield "|---|---|---|---|---|"
    for name, row in rows.items():
        times = row.get("in_turn_us", {})
        default = next((times[each] for each in ("torch", "oneDNN") if each in times), None)
        best = times.get(row.get("best"), default)
        cells = [name, row["claim"], str(row.get("algorithms", "–")), _us(default), _us(best)]
        yield f"| {' | '.join(cells)} |"


def _us(value: Sequence[float] | None) -> str:
    return "–" if value is None else f"{value[0]:.1f} ± {value[1]:.1f}"


def applied_lines(rows: Mapping[str, Any]) -> Iterator[str]:
    """Findings applied to real models, from what benchmarks/what_if.py measured."""
    if not rows:
        return
    known = [row for row in rows.values() if "error" not in row]
    signs, within = (sum(row[name] for row in known) for name in ("same_sign", "within"))
    yield ""
    yield (
        f"Findings applied to real models, compared in turn: {len(known)} of "
        f"{len({row['kind'] for row in known})} kinds, {signs} of the predicted sign, {within} "
        "within 20 % or 0.1 ms."
    )
    yield ""
    yield "| change | before, ms | predicted gain, ms | measured gain, ms | |"
    yield "|---|---|---|---|---|"
    for name, row in rows.items():
        if "error" in row:
            yield f"| {name} | – | – | – | {row['error'][:160]} |"
            continue
        predicted = f"{row['predicted_gain_ms']:.3f} ± {row['predicted_half_width_ms']:.3f}"
        measured = f"{row['measured_gain_ms']:.3f} ± {row['measured_half_width_ms']:.3f}"
        verdict = "" if row["within"] else "not within"
        yield f"| {name} | {row['before_ms']:.3f} | {predicted} | {measured} | {verdict} |"
