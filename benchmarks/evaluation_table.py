r"""The table of MLModelScope (Table 2; Dakkak et al., CLOUD 2020) from a database of evaluations.

A row is a model on a runtime: size of its weights, latency of one input (trimmed mean and 90th
percentile), highest throughput over batch sizes and the optimal batch, and under Poisson arrivals
at half of what one input after another reaches, p90 and p99. Where the paper has the model, its
numbers on a V100 stand beside ours.

    python benchmarks/evaluation_table.py --database table.sqlite [--markdown]
    python benchmarks/evaluation_table.py --database table.sqlite --page table.md --json table.json

The first prints it, the second writes it with its findings in words. With `--run` what the database
does not have yet is evaluated before; nothing is begun after `--minutes`, and the next call goes on
where one stopped:

    python benchmarks/evaluation_table.py --database table.sqlite --run --minutes 4 --device cuda \
        --models torchvision --size 224 --predictors torch torch-compile onnxruntime

Models are functions without arguments that make an `nn.Module`, by default the three of
vision_models.py; `torchvision` stands for the 42 of evaluation_models.py. Their weights are random:
there is no accuracy. Queries are as few as MLPerf's early stopping lets be valid.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import evaluation_page
import pandas as pd
from evaluation_models import Asked, asked
from evaluation_rows import (
    BATCHED,
    ONLINE,
    SCENARIOS,
    latest,
    newest,
    online_ms,
    table,
)

from xsp.database.store import Store
from xsp.errors import XspError
from xsp.evaluation import evaluate
from xsp.evaluation.manifest.reading import manifest_of
from xsp.evaluation.records.reading import read
from xsp.evaluation.scenarios.process import MeasuredProcess
from xsp.evaluation.scenarios.starting import MODULES, Forking

MODELS = tuple(
    f"vision_models:{name}" for name in ("alexnet_like", "resnet_like", "mobilenet_like")
)
LOAD = 0.5
"""Poisson arrivals come at this share of what one input after another reaches."""
SLACK = 20
"""Their latency bound, in latencies of one input: it makes the test invalid, never shorter."""


def content(model: Asked, options: argparse.Namespace, predictor: str) -> dict[str, Any]:
    """The manifest of a model but for its scenario, as JSON has it."""
    name = model.function.rpartition(":")[2]
    shape = ["batch", 3, model.size, model.size]
    make = {"function": model.function, "arguments": model.arguments}
    return {
        "xsp": 1,
        "name": name,
        "model": {
            "name": name,
            "version": "1",
            "task": "image classification",
            "framework": {"name": "torch", "version": ">=2.5"},
            "source": {"kind": "python", "make": make},
            "inputs": [{"name": "input", "dtype": "float32", "shape": shape}],
            "outputs": [{"name": "output", "dtype": "float32", "shape": ["batch", "any"]}],
        },
        "runtime": {"predictor": predictor, "device": options.device},
        "dataset": {"kind": "random", "samples": max(options.batch_sizes)},
    }


def run(store: Store, options: argparse.Namespace) -> None:
    """Evaluate what is asked for and not in the database yet, runtime after runtime; what fails is
    told and left out.
    """
    makers = {model.function.partition(":")[0] for model in asked(options.models, options.size)}
    with Forking([*MODULES, *sorted(makers)]) as start:
        _run(store, options, start)


def _run(store: Store, options: argparse.Namespace, start: Forking) -> None:
    until = time.monotonic() + 60 * options.minutes
    pairs = [
        (model, predictor)
        for predictor in options.predictors
        for model in asked(options.models, options.size)
    ]
    for model, predictor in pairs:
        if time.monotonic() > until:
            print(f"{options.minutes:g} minutes are over; the same command goes on", flush=True)
            return
        try:
            fill_row(store, options, model, predictor, until, start)
        except XspError as error:
            print(f"{model.function} on {predictor}: {error}", flush=True)


def fill_row(
    store: Store,
    options: argparse.Namespace,
    model: Asked,
    predictor: str,
    until: float,
    start: Forking,
) -> None:
    """Evaluate a model on a runtime under the three scenarios, those that are missing, in one
    process.
    """
    manifest = content(model, options, predictor)
    key = (manifest["name"], predictor, options.device)
    done = latest(store)
    with MeasuredProcess(start) as process:
        for scenario in SCENARIOS:
            if (*key, scenario) in done or time.monotonic() > until:
                continue
            online = done.get((*key, ONLINE))
            alone_ms = math.nan if online is None else online_ms(read(store, online))
            arrivals = settings(scenario, options, alone_ms)
            begin = time.monotonic()
            found = evaluate(
                manifest_of(json.dumps({**manifest, "scenario": arrivals}).encode(), key[0]),
                database=store,
                artifacts=options.artifacts,
                allow_code=True,
                labels=options.labels,
                process=process,
            )
            done[(*key, scenario)] = found.id
            took_s = time.monotonic() - begin
            valid = "valid" if found.outcome.valid else f"not valid: {found.outcome.reasons}"
            print(f"{key[0]} {predictor} {scenario}: {took_s:.1f} s, {valid}", flush=True)


def settings(scenario: str, options: argparse.Namespace, alone_ms: float) -> dict[str, Any]:
    """How queries arrive."""
    limited = {"kind": scenario, "time_limit_s": options.time_limit_s}
    if scenario == ONLINE:
        return {**limited, "queries": options.queries}
    if scenario == BATCHED:
        return {**limited, "batch_sizes": options.batch_sizes, "iterations": options.iterations}
    return {
        **limited,
        "queries": options.poisson_queries,
        "percentile": options.poisson_percentile,
        "rate_per_s": 1e3 * LOAD / alone_ms,
        "latency_bound_ms": SLACK * alone_ms,
    }


def runtimes() -> dict[str, str]:
    """What ONNX Runtime is here, for the record: its CPU build runs nothing on a GPU."""
    try:
        import onnxruntime
    except ImportError:
        return {"onnxruntime": "not installed"}
    providers = ", ".join(onnxruntime.get_available_providers())
    return {"onnxruntime": f"{onnxruntime.__version__} ({providers})"}


def printed(found: pd.DataFrame, *, markdown: bool) -> str:
    """The table as text; what is unknown is a dash."""
    if found.empty:
        return "the database has no evaluation; add --run"
    if markdown:
        return evaluation_page.markdown(found)
    return evaluation_page.shown(found).to_string(index=False)


def options_given() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--database", required=True)
    parser.add_argument("--artifacts", type=Path)
    parser.add_argument("--run", action="store_true")
    parser.add_argument("--minutes", type=float, default=math.inf)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--predictors", nargs="+", default=["torch", "torchscript", "onnxruntime"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--queries", type=int, default=64, help="online; 64 are the fewest for p90")
    parser.add_argument(
        "--poisson-queries", type=int, default=459, help="459 are the fewest for p99, 90 for p95"
    )
    parser.add_argument("--poisson-percentile", type=float, default=99.0)
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--time-limit-s", type=float, default=600.0)
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--page", type=Path, help="write the table and its findings as Markdown")
    parser.add_argument("--json", type=Path, help="write the rows")
    options = parser.parse_args()
    options.labels = runtimes()
    return options


def main() -> None:
    options = options_given()
    store = Store(options.database)
    try:
        if options.run:
            run(store, options)
        found = newest(store)
    finally:
        store.close()
    rows = table(found)
    if options.page:
        options.page.write_text(evaluation_page.page(found, rows))
    if options.json:
        options.json.write_text(evaluation_page.as_json(found, rows))
    print(printed(rows, markdown=options.markdown))


if __name__ == "__main__":
    main()
