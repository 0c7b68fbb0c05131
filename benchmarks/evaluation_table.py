r"""The table of MLModelScope (Table 2; Dakkak et al., CLOUD 2020) from a database of evaluations.

A row is a model on a runtime: size of its weights, latency of one input (trimmed mean and 90th
percentile), highest throughput over batch sizes and the optimal batch, and under Poisson arrivals
at half of what one input after another reaches, p90 and p99. Where the paper has the model, its
numbers on a V100 stand beside ours.

    python benchmarks/evaluation_table.py --database table.sqlite [--markdown]

prints it. With `--run` what the database does not have yet is evaluated first; a run that was
interrupted goes on where it stopped:

    python benchmarks/evaluation_table.py --database table.sqlite --run --device cuda \
        --models torchvision.models:resnet50 torchvision.models:alexnet --size 224 \
        --predictors torch torch-compile onnxruntime

Models are functions without arguments that make an `nn.Module`, by default the three of
vision_models.py. Their weights are random: there is no accuracy.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from xsp.database.store import Store
from xsp.errors import XspError
from xsp.evaluation import evaluate
from xsp.evaluation.manifest.reading import manifest_of
from xsp.evaluation.metrics.measured import measured
from xsp.evaluation.records.reading import evaluations, read

MODELS = tuple(
    f"vision_models:{name}" for name in ("alexnet_like", "resnet_like", "mobilenet_like")
)
ONLINE, BATCHED, POISSON = "single_stream", "batched", "server"
LOAD = 0.5
"""Poisson arrivals come at this share of what one input after another reaches."""
SLACK = 20
"""Their latency bound, in latencies of one input: it makes the test invalid, never shorter."""

PAPER = {
    "vgg16": ("VGG16", 22.43, 22.59, 687.5, 256),
    "resnet50": ("MLPerf_ResNet50_v1.5", 6.33, 6.53, 930.7, 256),
    "alexnet": ("BVLC_AlexNet", 2.33, 2.5, 2495.8, 64),
}
"""By torchvision's name: the paper's, trimmed mean and p90 in ms, inputs a second, batch."""


def content(function: str, options: argparse.Namespace, predictor: str) -> dict[str, Any]:
    """The manifest of a model but for its scenario, as JSON has it."""
    name = function.rpartition(":")[2]
    shape = ["batch", 3, options.size, options.size]
    return {
        "xsp": 1,
        "name": name,
        "model": {
            "name": name,
            "version": "1",
            "task": "image classification",
            "framework": {"name": "torch", "version": ">=2.5"},
            "source": {"kind": "python", "make": {"function": function}},
            "inputs": [{"name": "input", "dtype": "float32", "shape": shape}],
            "outputs": [{"name": "output", "dtype": "float32", "shape": ["batch", "any"]}],
        },
        "runtime": {"predictor": predictor, "device": options.device},
        "dataset": {"kind": "random", "samples": max(options.batch_sizes)},
    }


def run(store: Store, options: argparse.Namespace) -> None:
    """Evaluate what is asked for and not in the database yet; what fails is told and left out."""
    for function in options.models:
        for predictor in options.predictors:
            try:
                fill_row(store, options, function, predictor)
            except XspError as error:
                print(f"{function} on {predictor}: {error}", flush=True)


def fill_row(store: Store, options: argparse.Namespace, function: str, predictor: str) -> None:
    """Evaluate a model on a runtime under the three scenarios, those that are missing."""
    manifest = content(function, options, predictor)
    key = (manifest["name"], predictor, options.device)
    done = latest(store)
    for scenario in (ONLINE, BATCHED, POISSON):
        if (*key, scenario) in done:
            continue
        alone_ms = online_ms(store, done.get((*key, ONLINE)))
        asked = {**manifest, "scenario": settings(scenario, options, alone_ms)}
        found = evaluate(
            manifest_of(json.dumps(asked).encode(), function),
            database=store,
            artifacts=options.artifacts,
            allow_code=True,
        )
        done[(*key, scenario)] = found.id
        print(f"{found.id} {function} {predictor} {scenario}", flush=True)


def settings(scenario: str, options: argparse.Namespace, alone_ms: float) -> dict[str, Any]:
    """How queries arrive."""
    limited = {"kind": scenario, "time_limit_s": options.time_limit_s}
    if scenario == ONLINE:
        return {**limited, "queries": options.queries}
    if scenario == BATCHED:
        return {**limited, "batch_sizes": options.batch_sizes, "iterations": options.iterations}
    return {
        **limited,
        "queries": options.queries,
        "rate_per_s": 1e3 * LOAD / alone_ms,
        "latency_bound_ms": SLACK * alone_ms,
    }


def online_ms(store: Store, id_: str | None) -> float:
    """Trimmed mean of the latency of one input, NaN where it was not evaluated."""
    if id_ is None:
        return float("nan")
    return measured(read(store, id_).outcome)["latency_trimmed_mean"].value / 1e6


def latest(store: Store) -> dict[tuple[str, str, str, str], str]:
    """The newest evaluation by model, predictor, device and scenario."""
    found = evaluations(store)
    keys = zip(found["model"], found["predictor"], found["device"], found["scenario"], strict=True)
    return dict(zip(keys, found["id"], strict=True))


def table(store: Store) -> pd.DataFrame:
    """A row for each model on a runtime and device."""
    newest = latest(store)
    rows = dict.fromkeys(key[:3] for key in newest)
    return pd.DataFrame([dict(_row(store, key, newest)) for key in rows])


def _row(
    store: Store, key: tuple[str, str, str], newest: dict[tuple[str, str, str, str], str]
) -> Iterator[tuple[str, Any]]:
    model, predictor, device = key
    yield from {"model": model, "predictor": predictor, "device": device}.items()
    ids = {name: newest.get((*key, name)) for name in (ONLINE, BATCHED, POISSON)}
    found = {name: read(store, id_) for name, id_ in ids.items() if id_ is not None}
    metrics = {name: measured(each.outcome) for name, each in found.items()}

    def value(scenario: str, metric: str, scale: float = 1.0) -> float:
        there = metrics.get(scenario, {}).get(metric)
        return float("nan") if there is None else there.value * scale

    some = next(iter(found.values()))
    yield "weights_mb", weights_mb(some.manifest.model.source)
    yield "online_tm_ms", value(ONLINE, "latency_trimmed_mean", 1e-6)
    yield "online_p90_ms", value(ONLINE, "latency_p90", 1e-6)
    yield "most_inputs_per_s", value(BATCHED, "throughput")
    yield "optimal_batch", value(BATCHED, "optimal_batch")
    yield "poisson_per_s", value(POISSON, "throughput")
    yield "poisson_p90_ms", value(POISSON, "latency_p90", 1e-6)
    yield "poisson_p99_ms", value(POISSON, "latency_p99", 1e-6)
    invalid = [name for name, each in found.items() if not each.outcome.valid]
    doubtful = [name for name, each in found.items() if each.doubts]
    yield "not_valid", ", ".join(invalid)
    yield "doubtful", ", ".join(doubtful)
    theirs, tm_ms, p90_ms, per_s, batch = PAPER.get(model, ("", *[float("nan")] * 4))
    yield from {
        "paper": theirs,
        "paper_tm_ms": tm_ms,
        "paper_p90_ms": p90_ms,
        "paper_per_s": per_s,
        "paper_batch": batch,
    }.items()


def weights_mb(source: Any) -> float:
    """Megabytes of a model's parameters and buffers, made without memory for them."""
    if source.kind != "python":
        return float("nan")
    module, _, name = source.make.function.rpartition(":")
    with torch.device("meta"):
        model = getattr(importlib.import_module(module), name)(**source.make.arguments)
    tensors = [*model.parameters(), *model.buffers()]
    return float(sum(each.numel() * each.element_size() for each in tensors)) / 1e6


def printed(found: pd.DataFrame, *, markdown: bool) -> str:
    """The table as text; what is unknown is a dash."""
    if found.empty:
        return "the database has no evaluation; add --run"
    if not found["paper"].astype(bool).any():
        found = found.drop(
            columns=[name for name in found.columns if str(name).startswith("paper")]
        )
    cells = found.map(cell)
    if not markdown:
        return cells.to_string(index=False)
    lines = [list(cells.columns), ["---"] * len(cells.columns), *cells.to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(value: Any) -> str:
    """Four digits, or all before the point; a dash for what is unknown."""
    if not isinstance(value, float):
        return str(value) or "–"
    if math.isnan(value):
        return "–"
    return f"{value:,.0f}" if value >= 1e4 else f"{value:.4g}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--database", required=True)
    parser.add_argument("--artifacts", type=Path)
    parser.add_argument("--run", action="store_true")
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--predictors", nargs="+", default=["torch", "torchscript", "onnxruntime"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--queries", type=int, default=1024)
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--time-limit-s", type=float, default=600.0)
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args()
    store = Store(options.database)
    try:
        if options.run:
            run(store, options)
        print(printed(table(store), markdown=options.markdown))
    finally:
        store.close()


if __name__ == "__main__":
    main()
