"""Runtimes of evaluations on a GPU: the accuracy of the CPU, and a trace down to kernels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluated_models import write_digits

import xsp
from xsp.evaluation.artifacts.gathering import gather
from xsp.evaluation.artifacts.store import ArtifactStore
from xsp.evaluation.manifest.reading import read_manifest
from xsp.evaluation.metrics.accuracy import Accuracy
from xsp.evaluation.pipeline.assembling import assemble
from xsp.evaluation.pipeline.passing import pass_through
from xsp.evaluation.preparing import prepare
from xsp.evaluation.running import evaluate
from xsp.evaluation.scenarios.process import MeasuredProcess
from xsp.evaluation.scenarios.starting import Forking

pytestmark = pytest.mark.gpu


def answers(folder: Path, runtime: str) -> tuple[float, np.ndarray[Any, Any]]:
    """Top-1 over the digits' test data, and the scores."""
    path, store = write_digits(folder, runtime=runtime), ArtifactStore(folder / "store")
    manifest = gather(read_manifest(path), folder, store)
    accuracy, scores = Accuracy(manifest.metrics.accuracy), []

    def judge(predictions: Any, rows: Any) -> None:
        accuracy.update(predictions, rows)
        scores.append(predictions["scores"])

    with assemble(manifest, store, allow_code=True) as made:
        pass_through(made, 100, judge)
    return accuracy.values()[0].value, np.concatenate(scores)


@pytest.mark.parametrize(
    "runtime", ["torch", "torch-compile", "torchscript", "torch-export", "onnxruntime"]
)
def test_a_gpu_is_as_accurate(runtime: str, tmp_path: Path) -> None:
    """The network gives the CPU's accuracy on the GPU, by every runtime; scores agree to TF32."""
    if runtime == "onnxruntime":
        onnxruntime = pytest.importorskip("onnxruntime")
        if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            pytest.skip("this build of ONNX Runtime has no CUDA (onnxruntime-gpu)")
    right, expected = answers(tmp_path / "cpu", "{predictor: torch}")
    found, scores = answers(tmp_path / "gpu", f"{{predictor: {runtime}, device: cuda}}")
    assert np.abs(scores - expected).max() < 0.05
    assert abs(found - right) <= 2 / len(scores)


@pytest.mark.parametrize(
    ("level", "traced"),
    [("SYSTEM", {"LAYER", "KERNEL"}), ("FULL", {"LAYER", "LIBRARY", "KERNEL"})],
)
def test_an_evaluation_is_traced_down_to_kernels(
    level: str, traced: set[str], tmp_path: Path
) -> None:
    """A trace at SYSTEM has layers and kernels, at FULL library calls too, and the evaluation
    memory and energy of the GPU.
    """
    path = write_digits(tmp_path, runtime="{predictor: torch, device: cuda}")
    found = evaluate(
        path,
        database=tmp_path / "db.sqlite",
        artifacts=tmp_path / "store",
        trace=level,
        allow_code=True,
    )
    assert found.outcome.valid, found.outcome.reasons
    assert found.measure("peak_device_bytes").value
    capture = next(each for each in found.traces if each.kind == "capture")
    stored = ArtifactStore(tmp_path / "store").get(capture.sha256)
    assert stored is not None
    assert traced <= set(xsp.load(stored).spans["level"].astype(str))


def test_compiled_models_are_made_ready_beside_one_another(tmp_path: Path) -> None:
    """Two processes load and compile at the same time on one GPU; each is then measured without
    another process, and says for which batch sizes it had been made ready.
    """
    store = tmp_path / "store"
    runtimes = ("{predictor: torch, device: cuda}", "{predictor: torch-compile, device: cuda}")
    with Forking() as start, MeasuredProcess(start) as one, MeasuredProcess(start) as two:
        todo = [
            (read_manifest(write_digits(tmp_path / str(at), runtime=runtime)), process)
            for at, (runtime, process) in enumerate(zip(runtimes, (one, two), strict=True))
        ]
        gathered = [
            (gather(manifest, tmp_path / str(at), ArtifactStore(store)), process)
            for at, (manifest, process) in enumerate(todo)
        ]
        assert prepare(gathered, [1, 2, 8], artifacts=store, allow_code=True) == [None, None]
        for manifest, process in gathered:
            found = evaluate(
                manifest,
                database=tmp_path / "db.sqlite",
                artifacts=store,
                allow_code=True,
                process=process,
            )
            assert found.outcome.valid, found.outcome.reasons
            assert found.outcome.details["made_ready"] == [1, 2, 8]
            assert process.started == 1
