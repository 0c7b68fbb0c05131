"""Models with real weights that packages carry are as accurate as docs/evaluation.md says, on data
that packages and generators give. The packages lie in the folder XSP_ONNX_PACKAGES: `.ci/run`.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest

from xsp.evaluation.records.evaluation import Evaluation
from xsp.evaluation.running import evaluate
from xsp.evaluation.scenarios.process import MeasuredProcess
from xsp.evaluation.scenarios.starting import Forking

pytestmark = pytest.mark.timeout(200)
FONT = "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf"
STREAM = {"kind": "single_stream", "queries": 64, "warmup": 1}


@pytest.fixture(scope="module")
def packages() -> Iterator[None]:
    """The packages can be imported from, here and in processes that are measured."""
    folder = os.environ.get("XSP_ONNX_PACKAGES")
    if folder is None:
        pytest.skip("XSP_ONNX_PACKAGES names no folder with packages that carry weights")
    with pytest.MonkeyPatch.context() as patched:
        examples = str(Path(__file__).parents[1] / "examples")
        patched.setattr("sys.path", [*sys.path, examples, folder])
        yield


@pytest.fixture(scope="module")
def process(packages: None) -> Iterator[MeasuredProcess]:
    """Forks of one process that has torch."""
    with Forking() as forking, MeasuredProcess(forking) as started:
        yield started


def evaluated(name: str, predictor: str, folder: Path, process: MeasuredProcess) -> Evaluation:
    """A model of benchmarks/accuracy.py, by a runtime of one thread."""
    from accuracy_manifests import FILES, MODELS

    content = MODELS[name]() | {"scenario": STREAM}
    content["runtime"] = {"predictor": predictor, "options": {"threads": 1}}
    for file in FILES:
        shutil.copy(file, folder)
    path = folder / "manifest.yaml"
    path.write_text(json.dumps(content))
    given: dict[str, Any] = {"database": folder / "db.sqlite", "artifacts": folder / "artifacts"}
    with pytest.MonkeyPatch.context() as patched:
        # pytest writes the test's name there, and forks are begun anew in another environment.
        patched.delenv("PYTEST_CURRENT_TEST")
        return evaluate(path, allow_code=True, process=process, **given)


@pytest.mark.parametrize(
    ("name", "predictor", "least"),
    [
        ("file_types", "onnxruntime", {"top_1": 0.8, "top_5": 0.85}),
        ("speech", "onnxruntime", {"auroc": 0.97, "f1": 0.9}),
        ("text", "onnxruntime", {"exact": 0.9}),
        ("notes", "onnxruntime", {"top_1": 1.0}),
        ("quantized_sentences", "onnxruntime", {"cosine_similarity": 0.999}),
        ("float_sentences", "torch", {"cosine_similarity": 0.9999}),
        ("float_sentences", "torchscript", {"cosine_similarity": 0.9999}),
    ],
)
def test_real_weights_are_right(
    name: str, predictor: str, least: dict[str, float], process: MeasuredProcess, tmp_path: Path
) -> None:
    """Each metric is at least what it was measured to be, less what other files, another voice or
    another font change; the load on it is valid.
    """
    if name == "speech" and shutil.which("espeak-ng") is None:
        pytest.skip("needs espeak-ng, which says the sentences")
    if name == "text" and not Path(FONT).exists():
        pytest.skip(f"needs the font {FONT}, in which the words are drawn")
    try:
        found = evaluated(name, predictor, tmp_path, process)
    except PackageNotFoundError as error:
        pytest.skip(f"the package {error} is not there")
    assert found.outcome.valid
    assert {each: found.accuracy[each] >= value for each, value in least.items()} == dict.fromkeys(
        least, True
    ), found.accuracy
