r"""The table of MLModelScope (Table 2; Dakkak et al., CLOUD 2020) from a database of evaluations.

A row is a model on a runtime: size of its weights, latency of one input (trimmed mean and 90th
percentile), highest throughput over batch sizes and the optimal batch, and under Poisson arrivals
at a share (`--load`) of what one input after another reaches, p50, p90 and p99. Where the paper has
the model, its numbers on a V100 stand beside ours.

    python benchmarks/evaluation_table.py --database table.sqlite [--markdown]
    python benchmarks/evaluation_table.py --database table.sqlite --page table.md --json table.json

The first prints it, the second writes it with its findings in words. With `--run` what the database
does not have yet is evaluated before; nothing is begun after `--minutes`, and the next call goes on
where one stopped. With `--together` so many models are loaded, and compiled for all batch sizes, at
the same time, each in its own process; then they are measured one after the other, while the others
do nothing:

    python benchmarks/evaluation_table.py --database table.sqlite --run --minutes 4 --device cuda \
        --models classifiers --predictors torch torch-compile onnxruntime

Models are functions without arguments that make an `nn.Module`, by default the three of
vision_models.py, or names of evaluation_models.py, all of which are `classifiers`. Their weights
are random: there is no accuracy. Queries are as few as MLPerf's early stopping lets be valid.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import evaluation_page
import pandas as pd
from evaluation_models import TIMM, Asked, asked
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
from xsp.evaluation.manifest.model import Manifest
from xsp.evaluation.manifest.reading import manifest_of
from xsp.evaluation.preparing import prepare
from xsp.evaluation.records.reading import read
from xsp.evaluation.scenarios.process import MeasuredProcess
from xsp.evaluation.scenarios.starting import MODULES, Forking

MODELS = tuple(
    f"vision_models:{name}" for name in ("alexnet_like", "resnet_like", "mobilenet_like")
)
SLACK = 20
"""Their latency bound, in latencies of one input: it makes the test invalid, never shorter."""


def content(model: Asked, options: argparse.Namespace, predictor: str) -> dict[str, Any]:
    """The manifest of a model but for its scenario, as JSON has it."""
    shape = ["batch", 3, model.size, model.size]
    make = {"function": model.function, "arguments": model.arguments}
    return {
        "xsp": 1,
        "name": model.name,
        "model": {
            "name": model.name,
            "version": "1",
            "task": "image classification",
            "framework": {"name": "torch", "version": ">=2.5"},
            "source": {"kind": "python", "make": make},
            "inputs": [{"name": "input", "dtype": "float32", "shape": shape}],
            "outputs": [{"name": "output", "dtype": "float32", "shape": ["batch", "any"]}],
        },
        "runtime": {"predictor": predictor, "device": options.device},
        "dataset": {"kind": "random", "samples": options.samples or max(options.batch_sizes)},
    }


def run(store: Store, options: argparse.Namespace) -> None:
    """Evaluate what is asked for and not in the database yet, one group of models after another,
    each on every runtime; what fails is told and left out.
    """
    models = asked(options.models, options.size)
    makers = {each.function.partition(":")[0] for each in models if each.function != TIMM}
    until = time.monotonic() + 60 * options.minutes
    together = max(options.together, 1)
    groups = [
        [Row(each, predictor) for each in models[first : first + together]]
        for first in range(0, len(models), together)
        for predictor in options.predictors
    ]
    with Forking([*MODULES, *sorted(makers)]) as start:
        for group in groups:
            if time.monotonic() > until:
                print(f"{options.minutes:g} minutes are over; the same command goes on", flush=True)
                return
            try:
                run_group(store, options, group, until, start)
            except XspError as error:
                print(f"a group on {group[0].predictor}: {error}", flush=True)


class Row(NamedTuple):
    """A model on a runtime."""

    model: Asked
    predictor: str

    @property
    def name(self) -> str:
        return self.model.name


def run_group(
    store: Store, options: argparse.Namespace, rows: list[Row], until: float, start: Forking
) -> None:
    """Evaluate rows one after the other, each in a process of its own; several are made ready
    beside one another before.
    """
    done = latest(store)
    rows = [row for row in rows if missing(done, options, row)]
    with ExitStack() as open_processes:
        processes = [open_processes.enter_context(MeasuredProcess(start)) for _ in rows]
        failures: list[XspError | None] = [None] * len(rows)
        if options.together:
            failures = made_ready(options, rows, processes, until)
        for row, process, failure in zip(rows, processes, failures, strict=True):
            try:
                if failure is not None:
                    raise failure
                fill_row(store, options, row, until, process)
            except XspError as error:
                print(f"{row.name} on {row.predictor}: {error}", flush=True)
            process.close()


def made_ready(
    options: argparse.Namespace,
    rows: list[Row],
    processes: list[MeasuredProcess],
    until: float,
) -> list[XspError | None]:
    """Make the models and call them with every batch size, all at the same time."""
    begin = time.monotonic()
    manifests = [manifest(row, options, {"kind": ONLINE}) for row in rows]
    failures = prepare(
        list(zip(manifests, processes, strict=True)),
        options.batch_sizes,
        artifacts=options.artifacts,
        allow_code=True,
        time_limit_s=min(options.ready_limit_s, until - begin),
    )
    took_s = time.monotonic() - begin
    well = failures.count(None)
    print(f"{well} of {len(rows)} models made ready in {took_s:.1f} s", flush=True)
    return list(failures)


def manifest(row: Row, options: argparse.Namespace, scenario: dict[str, Any]) -> Manifest:
    """What evaluates a row under a scenario."""
    said = {**content(row.model, options, row.predictor), "scenario": scenario}
    return manifest_of(json.dumps(said).encode(), row.name)


def missing(
    done: Mapping[tuple[str, str, str, str], str], options: argparse.Namespace, row: Row
) -> list[str]:
    """The scenarios that are asked for and not in the database."""
    key = (row.name, row.predictor, options.device)
    wanted = options.scenarios
    return [each for each in wanted if options.again or (*key, each) not in done]


def fill_row(
    store: Store,
    options: argparse.Namespace,
    row: Row,
    until: float,
    process: MeasuredProcess,
) -> None:
    """Evaluate a model on a runtime under the scenarios that are missing."""
    done = latest(store)
    for scenario in missing(done, options, row):
        if time.monotonic() > until:
            return
        online = done.get((row.name, row.predictor, options.device, ONLINE))
        alone_ms = math.nan if online is None else online_ms(read(store, online))
        arrivals = settings(scenario, options, alone_ms)
        begin = time.monotonic()
        found = evaluate(
            manifest(row, options, arrivals),
            database=store,
            artifacts=options.artifacts,
            allow_code=True,
            labels=options.labels,
            process=process,
        )
        done[(row.name, row.predictor, options.device, scenario)] = found.id
        took_s = time.monotonic() - begin
        valid = "valid" if found.outcome.valid else f"not valid: {found.outcome.reasons}"
        print(f"{row.name} {row.predictor} {scenario}: {took_s:.1f} s, {valid}", flush=True)


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
        "rate_per_s": 1e3 * options.load / alone_ms,
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
    parser.add_argument("--samples", type=int, help="inputs there are; the largest batch if absent")
    parser.add_argument(
        "--together", type=int, default=0, help="models made ready beside one another before"
    )
    parser.add_argument("--ready-limit-s", type=float, default=600.0)
    parser.add_argument("--scenarios", nargs="+", choices=SCENARIOS, default=list(SCENARIOS))
    parser.add_argument("--again", action="store_true", help="also what the database has")
    parser.add_argument(
        "--load", type=float, default=0.5, help="Poisson arrivals: of what online has"
    )
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
    options.labels = {**runtimes(), "made_ready_together": str(options.together)}
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
    if options.page or options.json:
        said = evaluation_page.summary(found, rows)
        if options.page:
            options.page.write_text(evaluation_page.page(said))
        if options.json:
            options.json.write_text(json.dumps(said, indent=1) + "\n")
    print(printed(rows, markdown=options.markdown))


if __name__ == "__main__":
    main()
