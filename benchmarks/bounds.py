"""Lower bounds, Benanza Ratios and findings of many models on this machine, as JSON and as the
tables of docs/bounds.md.

    python benchmarks/bounds.py --device cuda --output bounds_h200.json --budget-s 330
    python benchmarks/bounds.py --page docs/bounds.md --output bounds_h200.json

Models are built from configurations with random weights (zoo.py, torchvision); nothing is
downloaded. They run in a worker process, one after another: a model that raises is recorded and the
next one goes on; a worker that dies is started again after that model. The JSON is written after
every model, and a later run with the same file and database goes on where this one stopped. First
come ResNet-50's layers over all algorithms, timed, and the same from the database.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xsp.database.entry import Entry

PAPER = (
    "alexnet",
    "densenet121",
    "googlenet",
    "inception_v3",
    "mobilenet_v2",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "shufflenet_v2_x1_0",
    "squeezenet1_1",
    "vgg16",
    "vgg16_bn",
    "vgg19",
    "vgg19_bn",
)
"""Models of the paper that torchvision has; as there with one image in float32."""
ZOO = (
    "resnet50",
    "resnet50_channels_last",
    "bert_base",
    "vit_b_16",
    "gpt2",
    "mobilenet_v2",
    "llama_8_layers",
    "convnext_tiny",
    "efficientnet_b0",
    "swin_t",
    "deit_small",
    "mixer_b_16",
    "roberta_base",
    "distilbert",
    "opt_125m",
    "unet_diffusion",
    "lstm",
    "dlrm",
    "whisper_small",
    "t5_small",
)
"""Models of benchmarks/zoo.py, in half precision and with the batch that they have there."""
ALGORITHMS = "resnet50_algorithms"
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


def main() -> None:
    options = _options()
    if options.page is not None:
        _write_page(options.output, options.page)
    elif options.worker:
        _work(options)
    else:
        _supervise(options)


def names(options: argparse.Namespace) -> list[str]:
    """What to run: `paper/NAME` and `zoo/NAME`."""
    if options.models:
        return [name for name in options.models.split(",") if name]
    return [f"paper/{name}" for name in PAPER] + [f"zoo/{name}" for name in ZOO]


def _supervise(options: argparse.Namespace) -> None:
    """Run workers until every model is done, has failed, or the time is spent."""
    begin = time.monotonic()
    wanted = [ALGORITHMS, *names(options)] if options.device == "cuda" else names(options)
    while True:
        rows = _rows(options.output)
        todo = [name for name in wanted if name not in rows]
        left = options.budget_s - (time.monotonic() - begin)
        if not todo or left < 10:
            break
        command = [sys.executable, __file__, "--worker", "--models", ",".join(todo)]
        command += ["--device", options.device, "--output", str(options.output)]
        command += ["--database", options.database, "--budget-s", str(left)]
        command += ["--layers-s", str(options.layers_s), "--profile-s", str(options.profile_s)]
        code: int | str
        try:
            code = subprocess.run(command, check=False, timeout=left + 30).returncode
        except subprocess.TimeoutExpired:
            code = "time"
        rows = _rows(options.output)
        begun = [name for name, row in rows.items() if row.get("state") == "begun"]
        for name in begun:
            _keep(options.output, name, {"error": f"the worker ended with {code}"})
        if not begun:
            break
    rows = _rows(options.output)
    done = sum("bounds" in row for row in rows.values())
    print(f"{done} of {len(wanted)} models in {time.monotonic() - begin:.0f} s; {options.output}")


def _work(options: argparse.Namespace) -> None:
    """Run the models given, one after another, within the time."""
    from xsp.database.store import Store

    begin = time.monotonic()
    with Store(options.database) as store:
        for name in names(options):
            left = options.budget_s - (time.monotonic() - begin)
            if left < 10:
                return
            _keep(options.output, name, {"state": "begun"})
            started = time.monotonic()
            try:
                row = _row(name, store, options, left)
            except Exception as error:  # one model must not take the others with it
                row = {"error": f"{type(error).__name__}: {str(error).strip()[:300]}"}
            row["seconds"] = round(time.monotonic() - started, 1)
            _keep(options.output, name, row)
            said = row.get("ratio", row.get("error", "done"))
            print(f"{name}: {said} in {row['seconds']} s", flush=True)
            _forget(options.device)


def _row(name: str, store: Any, options: argparse.Namespace, left: float) -> dict[str, Any]:
    if name == ALGORITHMS:
        return algorithms_row(store, options.device, min(180.0, left / 2))
    model, inputs = built(name, options.device)
    return model_row(
        name,
        model,
        inputs,
        store,
        options.device,
        min(options.layers_s, left / 2),
        options.profile_s,
    )


def built(name: str, device: str) -> tuple[Any, Any]:
    """A model with its inputs, by `paper/NAME` or `zoo/NAME`."""
    import torch
    import zoo

    kind, _, bare = name.partition("/")
    if kind == "zoo":
        entry = zoo.ZOO[bare]
        return zoo.target(entry, entry.batch if device == "cuda" else 1, device)
    from torchvision import models

    pixels = 299 if bare == "inception_v3" else 224
    extra = {"init_weights": False} if bare in {"googlenet", "inception_v3"} else {}
    with torch.device(device):
        model = models.get_model(bare, weights=None, **extra).eval().requires_grad_(False)
        return model, (torch.rand(1, 3, pixels, pixels),)


def model_row(
    name: str,
    model: Any,
    inputs: Any,
    store: Any,
    device: str,
    layers_s: float,
    profile_s: float,
) -> dict[str, Any]:
    """Measure a model and its layers, and say what there is to say: bound, ratio, findings."""
    import torch

    import xsp
    from xsp.bounds.lower_bound import lower_bound
    from xsp.bounds.running import measure_missing, wanted_of
    from xsp.cli.bound import as_json
    from xsp.graphs.from_export import graph_of
    from xsp.graphs.patterns import fused

    args, kwargs = (inputs, {}) if isinstance(inputs, tuple) else ((), inputs)
    graph = graph_of(model, args, kwargs, name=name)
    with torch.no_grad():
        prof = xsp.measure(model, *args, budget_s=profile_s, progress=False, **kwargs)
    begin = time.monotonic()
    plain = wanted_of([graph], device, with_variants=False)
    first = measure_missing(store, plain, device, budget_s=layers_s, each_s=0.25, progress=False)
    rest = max(layers_s - (time.monotonic() - begin), 1.0)
    every = wanted_of([graph, fused(graph)], device)
    second = measure_missing(store, every, device, budget_s=rest, each_s=0.25, progress=False)
    found = lower_bound(prof, store, graph=graph)
    try:
        answers = prof.findings(found)
        notes: list[str] = []
    except Exception as error:  # the bound stands without them
        answers, notes = [], [f"no findings: {type(error).__name__}: {error}"]
    row = as_json(found, answers)
    tree = prof.tree()
    return row | {
        "ratio": finite(found.ratio),
        "parallel_ratio": finite(found.parallel_ms / found.latency_ms),
        "gpu_busy_ms": finite(float(tree["device_ms"].iloc[0])),
        "keys": sorted({layer.digest for layer in graph.layers}),
        "measured_layers": first.layers + second.layers,
        "algorithms": first.algorithms + second.algorithms,
        "failed_algorithms": first.failed + second.failed,
        "unfinished_layers": second.unfinished,
        "notes": [*first.notes, *notes, *graph.notes, *prof.warnings],
        "closure": finite(float(prof.closure_error["error"].iloc[-1]))
        if len(prof.closure_error)
        else None,
        "above": above(found),
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


def algorithms_row(store: Any, device: str, budget_s: float) -> dict[str, Any]:
    """ResNet-50's unique layers over all algorithms: how long it takes, how many there are, what
    the best is against PyTorch's choice, and how long the same takes from the database.
    """
    import zoo

    from xsp.bounds.algorithms import missing_tools, tools
    from xsp.bounds.lower_bound import DEFAULTS, Known
    from xsp.bounds.running import ALL, measure_missing, this_machine, wanted_of
    from xsp.graphs.from_export import graph_of

    model, inputs = zoo.target(zoo.ZOO["resnet50"], 32 if device == "cuda" else 1, device)
    if not isinstance(inputs, tuple):
        raise TypeError(f"ResNet-50 takes its image by position, not {sorted(inputs)}")
    graph = graph_of(model, inputs, name="resnet50")
    wanted = wanted_of([graph], device, with_variants=False)
    done = measure_missing(store, wanted, device, budget_s=budget_s, each_s=0.25, progress=True)
    begin = time.monotonic()
    again = measure_missing(store, wanted, device, progress=False)
    repeat_s = time.monotonic() - begin
    entries = store.entries(this_machine(device), [each.layer for each in wanted])
    known = Known(entries)
    layers = []
    for each in wanted:
        ranked = known.of(each.layer, each.precision)
        default = [entry for entry in ranked if entry.algorithm in DEFAULTS]
        if not ranked or not default:
            continue
        tried = [entry for entry in entries if entry.layer == each.layer and entry.algorithm != ALL]
        layers.append(
            {
                "operator": each.layer.operator,
                "input": str(each.layer.inputs[0]),
                "weight": str(each.layer.weights[0]) if each.layer.weights else "",
                "algorithms": len(tried),
                "ran": len(ranked),
                "best": ranked[0].algorithm,
                "best_us": _time_us(ranked[0]),
                "best_half_width_us": (ranked[0].half_width_ns or 0.0) / 1e3,
                "pytorch_us": _time_us(default[0]),
                "pytorch_half_width_us": (default[0].half_width_ns or 0.0) / 1e3,
            }
        )
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
        "layers": layers,
    }


def finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _time_us(entry: Entry) -> float:
    """Of an entry that was timed, as all are that `Known` ranks."""
    assert entry.time_ns is not None
    return entry.time_ns / 1e3


def _forget(device: str) -> None:
    gc.collect()
    if device == "cuda":
        import torch

        torch.cuda.empty_cache()


def _rows(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}


def _keep(path: Path, name: str, row: Mapping[str, Any]) -> None:
    """Write the file whole: what stops this leaves the file as it was before."""
    rows = _rows(path) | {name: dict(row)}
    partial = path.with_name(path.name + ".partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


# ---- the page ----


def _write_page(results: Path, page: Path) -> None:
    """Put the figures between the marks of docs/bounds.md."""
    text = page.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    figures = "\n".join(page_lines(_rows(results)))
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
    return lines


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
            found[key] = f"{mean:.2f} ({len(values)} models)"
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
            f"ResNet-50, batch 32, half precision: {row['unique_layers']} unique layers through "
            f"{row['algorithms']} algorithms in {row['measure_s']:.0f} s ({row['failed']} could "
            f"not run); the same from the database in {row['repeat_s']:.2f} s."
        )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/bounds_h200.json"))
    parser.add_argument("--database", default="bounds.sqlite", help="performance database to fill")
    parser.add_argument("--models", default="", help="paper/NAME and zoo/NAME, with commas between")
    parser.add_argument("--budget-s", type=float, default=330.0, help="seconds for everything")
    parser.add_argument("--layers-s", type=float, default=15.0, help="seconds for a model's layers")
    parser.add_argument("--profile-s", type=float, default=3.0, help="seconds for a model's rounds")
    parser.add_argument("--page", type=Path, default=None, help="write the figures into this page")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
