"""Evaluate two small models on the CPU, by two runtimes and over two scenarios.

    pip install "xsp[evaluation,onnx]" scikit-learn onnxscript
    python examples/evaluate.py --output evaluation-output [--open]

Trains a convolutional and a fully connected network on handwritten digits, writes a manifest for
each, evaluates them, and prints a table out of the database. Takes one to two minutes. With
`--open` the page that shows and compares them is served then, and opened in a browser; that needs
"xsp[web]" too, and ends with Ctrl-C.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
from contextlib import suppress
from itertools import product
from pathlib import Path

import digits_models
import torch

from xsp.database.store import Store
from xsp.evaluation import compare, evaluate, evaluations
from xsp.evaluation.scenarios.process import MeasuredProcess
from xsp.evaluation.scenarios.starting import Forking

MANIFEST = """\
xsp: 1
name: digits-{name}
model:
  name: digits-{name}
  version: 1.0.0
  task: image classification
  framework: {{name: torch, version: '>=2.5'}}
  source:
    kind: python
    make: {{function: 'digits_models.py:{name}'}}
    weights: {{kind: file, path: {name}.pt, sha256: {sha256}}}
  inputs:
    - name: input
      dtype: float32
      shape: [batch, 1, 8, 8]
      column: image
      column_kind: image
      steps:
        - {{step: normalize, mean: [8.0], std: [8.0]}}
        - {{step: transpose, axes: [2, 0, 1]}}
  outputs:
    - name: scores
      dtype: float32
      shape: [batch, 10]
      labels: ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9']
runtime: {{predictor: torch, options: {{threads: 1}}}}
scenario: {{kind: single_stream, queries: 1024}}
dataset:
  kind: python
  make: {{function: 'digits_models.py:test_digits'}}
metrics:
  accuracy:
    - {{metric: top_k, k: 1, output: scores, target: label}}
    - {{metric: f1, output: scores, target: label}}
"""
SCENARIOS = [
    {"kind": "single_stream", "queries": 1024},
    {"kind": "offline", "samples": 4096, "batch": 32},
]
COLUMNS = ["model", "predictor", "scenario", "valid", "top_1", "latency_p50", "throughput"]


def write_manifest(folder: Path, name: str, epochs: int) -> Path:
    """Train a model; write its weights, its code and its manifest to the folder."""
    torch.manual_seed(0)
    weights = folder / f"{name}.pt"
    torch.save(digits_models.trained(getattr(digits_models, name)(), epochs).state_dict(), weights)
    shutil.copy(digits_models.__file__, folder / "digits_models.py")
    sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()
    path = folder / f"{name}.yaml"
    path.write_text(MANIFEST.format(name=name, sha256=sha256))
    return path


def serve(folder: Path, database: Path) -> None:
    """The page, until Ctrl-C."""
    places = ["--database", str(database), "--artifacts", str(folder / "artifacts")]
    command = [sys.executable, "-m", "xsp", "serve", str(folder), "--allow-code", "--open", *places]
    with suppress(KeyboardInterrupt):
        subprocess.run(command, check=True)  # noqa: S603 - xsp's own command


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("evaluation-output"))
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--models", nargs="+", default=["cnn", "mlp"])
    parser.add_argument("--predictors", nargs="+", default=["torch", "onnxruntime"])
    parser.add_argument("--open", action="store_true", help="serve the page, and open it")
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    database = given.output / "evaluations.sqlite"
    # Processes in which things are judged and measured begin as forks of one that has torch.
    with Store(database) as store, Forking() as forking, MeasuredProcess(forking) as process:
        for name in given.models:
            path = write_manifest(given.output, name, given.epochs)
            online = []
            for predictor, scenario in product(given.predictors, SCENARIOS):
                found = evaluate(
                    path,
                    predictor=predictor,
                    scenario=scenario,
                    database=store,
                    artifacts=given.output / "artifacts",
                    # The manifest's Python is digits_models.py, which lies beside this file.
                    allow_code=True,
                    # Both scenarios of a model on a runtime are run in one process.
                    process=process,
                )
                print(found, flush=True)
                online += [found] if scenario is SCENARIOS[0] else []
            for other in online[1:]:
                print(compare(online[0], other), flush=True)
        table = evaluations(store)
    table["latency_p50"] /= 1e6
    named = table[COLUMNS].rename(columns={"latency_p50": "p50_ms", "throughput": "inputs_per_s"})
    print(f"\n{named.to_string(index=False, na_rep='–')}\n")
    print(f"everything is in {database}")
    if given.open:
        serve(given.output, database)


if __name__ == "__main__":
    main()
