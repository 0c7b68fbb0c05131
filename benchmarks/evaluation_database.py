"""How the database of evaluations grows: time to write one, time of the questions that the page and
the command line ask, and bytes, by the number of evaluations that are there.

    python benchmarks/evaluation_database.py --json benchmarks/results/evaluation_database_cpu.json
    python benchmarks/evaluation_database.py --postgresql postgresql+psycopg://user@host/empty

Evaluations are made, not measured: 200 queries and ten measures each, of 20 models on 5 systems
under 3 runtimes. Every fifth refers to a capture by its checksum; the capture is a real one in the
artifact store, and its spans are not in the database.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import create_engine, text

import xsp
from xsp.database.store import Store
from xsp.evaluation.artifacts.store import ArtifactStore
from xsp.evaluation.manifest.model import Manifest
from xsp.evaluation.manifest.reading import manifest_of
from xsp.evaluation.records.comparison import compare, sessions_like
from xsp.evaluation.records.evaluation import Evaluation, Measure, Trace
from xsp.evaluation.records.reading import evaluations, read
from xsp.evaluation.records.writing import write
from xsp.evaluation.scenarios.scenario import Outcome
from xsp.machine.environment import environment

SIZES = (100, 300, 1000, 3000, 10_000)
MODELS, SYSTEMS, RUNTIMES = 20, 5, ("torch", "torch-compile", "onnxruntime")
QUERIES, MEASURES, TRACED_EVERY = 200, 10, 5
ASKED = 5
"""How often a question is asked; the median is told."""
CAPTURE = Path(__file__).parent.parent / "examples" / "captures" / "h100_resnet50.xsp"


def manifest(model: int) -> Manifest:
    """A manifest of a model that nobody loads."""
    content = f"""
xsp: 1
name: made-{model}
model:
  name: model-{model}
  version: 1.0.0
  task: image classification
  framework: {{name: onnx}}
  source:
    kind: onnx
    artifact: {{kind: file, path: model.onnx, sha256: '{model:064x}'}}
  inputs: [{{name: x, dtype: float32, shape: [batch, 3, 224, 224]}}]
  outputs: [{{name: y, dtype: float32, shape: [batch, 1000]}}]
runtime: {{predictor: onnxruntime}}
scenario: {{kind: single_stream, queries: {QUERIES}}}
dataset:
  kind: arrays
  artifact: {{kind: file, path: data.npz, sha256: {"f" * 64!r}}}
"""
    return manifest_of(content.encode(), "made")


def made(number: int, manifests: Sequence[Manifest], capture: Trace) -> Evaluation:
    """The evaluation of this number."""
    generator = np.random.default_rng(number)
    taken = (generator.gamma(50, 0.04, QUERIES) * 1e6).astype(np.int64)
    ends = np.cumsum(taken)
    outcome = Outcome(
        scenario="single_stream",
        settings={"queries": QUERIES},
        scheduled_ns=ends - taken,
        issued_ns=ends - taken,
        completed_ns=ends,
        samples=np.ones(QUERIES, np.int64),
        answered=np.ones(QUERIES, bool),
        errors=0,
        valid=True,
    )
    values = generator.gamma(50, 0.04, MEASURES)
    return Evaluation(
        id=f"{number:016x}",
        manifest=manifests[number % MODELS],
        system={"cpu": f"system {number % SYSTEMS}", "cores": 8, "torch": "2.13.0", "labels": {}},
        predictor=RUNTIMES[number % len(RUNTIMES)],
        runtime="1.0",
        outcome=outcome,
        measures=tuple(
            Measure(f"measure_{place}", float(value), "ms", float(value) * 0.9, float(value) * 1.1)
            for place, value in enumerate(values)
        ),
        traces=(capture,) if number % TRACED_EVERY == 0 else (),
        measured_at=1.7e9 + number,
    )


def median_ms(ask: Callable[[], Any]) -> float:
    taken = []
    for _ in range(ASKED):
        start = time.perf_counter_ns()
        ask()
        taken.append((time.perf_counter_ns() - start) / 1e6)
    return float(np.median(taken))


def grown(store: Store, capture: Trace, sizes: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Write up to each size and ask there."""
    manifests = [manifest(model) for model in range(MODELS)]
    there = 0
    for size in sizes:
        found = [made(number, manifests, capture) for number in range(there, size)]
        taken = []
        for each in found:
            start = time.perf_counter_ns()
            write(store, each)
            taken.append((time.perf_counter_ns() - start) / 1e6)
        there = size
        yield {
            "evaluations": size,
            "spans_by_reference": -(-size // TRACED_EVERY) * capture.spans,
            "write_one_ms_median": float(np.median(taken)),
            "write_one_ms_p99": float(np.quantile(taken, 0.99)),
            **questions(store, size),
            "bytes": size_of(store),
        }


def questions(store: Store, size: int) -> dict[str, float]:
    """What the page and the command line ask."""
    middle = f"{size // 2:016x}"
    other = f"{size // 2 - MODELS:016x}"
    first, second = read(store, middle), read(store, other)
    return {
        "read_one_ms": median_ms(lambda: read(store, middle)),
        "newest_200_ms": median_ms(lambda: evaluations(store, 200)),
        "table_of_all_ms": median_ms(lambda: evaluations(store)),
        "compare_two_ms": median_ms(lambda: compare(first, second)),
        "sessions_like_one_ms": median_ms(lambda: len(sessions_like(store, first))),
    }


def size_of(store: Store) -> int:
    """Bytes of the file, or of the database on the server."""
    if "://" not in store.place:
        return sum(path.stat().st_size for path in Path(store.place).parent.glob("made.sqlite*"))
    engine = create_engine(store.place)
    with engine.connect() as connection:
        found = connection.execute(text("SELECT pg_database_size(current_database())"))
        return int(found.scalar_one())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--postgresql", help="URL of an empty database")
    parser.add_argument("--most", type=int, default=SIZES[-1])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    sizes = [size for size in SIZES if size <= options.most]
    with tempfile.TemporaryDirectory() as folder:
        artifacts = ArtifactStore(Path(folder) / "artifacts")
        with CAPTURE.open("rb") as file:
            digest = artifacts.put(file, what="the capture")
        spans = len(xsp.load(artifacts.place(digest)).spans)
        capture = Trace(digest, "capture", "FULL", spans, "1" * 32)
        places = {"sqlite": str(Path(folder) / "made.sqlite"), "postgresql": options.postgresql}
        results: dict[str, Any] = {
            "capture": {"spans": spans, "bytes": CAPTURE.stat().st_size},
            "environment": environment(),
        }
        for name, place in places.items():
            if place:
                with Store(place) as store:
                    results[name] = list(grown(store, capture, sizes))
                for row in results[name]:
                    print(name, json.dumps(row), flush=True)
                if options.json:
                    options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
