"""The same network by every runtime: equal answers, nothing left behind, errors in one sentence."""

from __future__ import annotations

import io
import pickle
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from evaluated_models import network, write_digits

from xsp.errors import EvaluationError
from xsp.evaluation.artifacts.code import function_of
from xsp.evaluation.artifacts.gathering import gather
from xsp.evaluation.artifacts.store import ArtifactStore
from xsp.evaluation.manifest.reading import read_manifest
from xsp.evaluation.manifest.source import Code
from xsp.evaluation.metrics.accuracy import Accuracy, Value
from xsp.evaluation.pipeline.assembling import assemble
from xsp.evaluation.pipeline.passing import pass_through
from xsp.evaluation.predictors import registry
from xsp.evaluation.predictors.predictor import EXPORTED, MODULE, TORCHSCRIPT, LoadedModel, Tensor
from xsp.evaluation.predictors.registry import predictor, predictor_names

PIXELS = Tensor("pixels", "float32", (None, 1, 8, 8))
SCORES = Tensor("scores", "float32", (None, 10))


def model(**changes: Any) -> LoadedModel:
    given: dict[str, Any] = {"name": "digits", "format": MODULE, "make": network}
    return LoadedModel(**{**given, "inputs": [PIXELS], "outputs": [SCORES], **changes})


def top_1(folder: Path, runtime: str) -> tuple[list[Value], np.ndarray[Any, Any]]:
    """Accuracy over the digits' test data, and the scores themselves."""
    store = ArtifactStore(folder / "store")
    path = write_digits(folder / runtime, runtime=runtime)
    manifest = gather(read_manifest(path), path.parent, store)
    accuracy, scores = Accuracy(manifest.metrics.accuracy), []

    def judge(predictions: Any, rows: Any) -> None:
        accuracy.update(predictions, rows)
        scores.append(predictions["scores"])

    with assemble(manifest, store, allow_code=True) as made:
        assert pass_through(made, 100, judge) == 597
    return accuracy.values(), np.concatenate(scores)


@pytest.fixture(scope="module")
def eager(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Value], np.ndarray[Any, Any]]:
    return top_1(tmp_path_factory.mktemp("eager"), "{predictor: torch}")


RUNTIMES = {
    "torchscript": "{predictor: torchscript}",
    "torchscript, frozen": "{predictor: torchscript, options: {freeze: true, optimize: true}}",
    "torch-export": "{predictor: torch-export}",
    "onnxruntime": "{predictor: onnxruntime, options: {threads: 1}}",
    "onnxruntime, as it is": "{predictor: onnxruntime, options: {optimization: none}}",
    # The compiler of machine code takes 17 s at its first use; the one test of it is below.
    "torch-compile, graphs only": "{predictor: torch-compile, options: {backend: aot_eager}}",
}


@pytest.mark.parametrize("name", RUNTIMES)
def test_every_runtime_is_as_accurate(
    name: str, eager: tuple[list[Value], np.ndarray[Any, Any]], tmp_path: Path
) -> None:
    """Top-1, top-5 and F1 of a trained network are the same by every runtime, and the scores agree
    to rounding.
    """
    values, scores = top_1(tmp_path, RUNTIMES[name])
    assert values == eager[0]
    assert np.abs(scores - eager[1]).max() < 1e-4
    best, *_ = values
    assert best.name == "top_1"
    assert best.value > 0.9
    assert best.low is not None
    assert best.low < best.value < (best.high or 0)


def test_inductor_is_as_accurate(
    eager: tuple[list[Value], np.ndarray[Any, Any]], tmp_path: Path
) -> None:
    """torch.compile's own compiler gives the same accuracy; the batch sizes are compiled first."""
    values, scores = top_1(tmp_path, "{predictor: torch-compile, options: {dynamic: true}}")
    assert values == eager[0]
    assert np.abs(scores - eager[1]).max() < 1e-4


def test_files_of_formats_run(tmp_path: Path) -> None:
    """A saved TorchScript or exported program gives what the module gives."""
    torch.manual_seed(3)
    made = network().eval()
    x = torch.rand(4, 1, 8, 8)
    torch.jit.trace(made, x).save(str(tmp_path / "a.ts"))
    torch.export.save(torch.export.export(made, (x,)), tmp_path / "a.pt2")
    expected = made(x).detach().numpy()
    for name, form, file in (
        ("torchscript", TORCHSCRIPT, "a.ts"),
        ("torch-export", EXPORTED, "a.pt2"),
    ):
        runtime = predictor(name)
        runtime.load(model(format=form, path=tmp_path / file, make=None))
        found = runtime.predict({"pixels": x.numpy()})
        np.testing.assert_allclose(found["scores"], expected, atol=1e-6)
        runtime.unload()


class OfOneSize(torch.nn.Module):
    """Uses the batch size as a number, which a trace keeps; so many converters' modules do."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.reshape(int(torch.tensor(pixels.shape[0])), 64)[:, :10]


def test_a_trace_can_be_of_one_batch_size() -> None:
    """A module that a trace fixes to a batch size is traced for the one that the option says."""
    runtime = predictor("torchscript")
    x = {"pixels": np.ones((3, 1, 8, 8), np.float32)}
    for batch, fits in ((2, False), (3, True)):
        runtime.load(model(make=OfOneSize, options={"batch": batch}))
        if fits:
            assert runtime.predict(x)["scores"].shape == (3, 10)
        else:
            with pytest.raises(RuntimeError, match="invalid for input of size"):
                runtime.predict(x)
        runtime.unload()


LOOP = """
import torch

class Summed(torch.nn.Module):
    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        found = pixels.new_zeros(len(pixels), 10)
        for place in range(len(pixels)):
            found[place] = pixels[place].flatten()[:10] + place
        return found

def make():
    return torch.jit.script(Summed())
"""


@pytest.mark.parametrize("name", ["torch", "torchscript"])
def test_python_can_make_torchscript(name: str, tmp_path: Path) -> None:
    """A manifest's file may return a module that is TorchScript already: its loop stays one."""
    store = ArtifactStore(tmp_path / "store")
    checksum = store.put(io.BytesIO(LOOP.encode()), what="the code")
    make = function_of(Code(function="loop.py:make", sha256=checksum), store, allow_code=True)
    runtime = predictor(name)
    runtime.load(model(make=make))
    x = np.zeros((5, 1, 8, 8), np.float32)
    found = runtime.predict({"pixels": x})["scores"]
    np.testing.assert_array_equal(found[:, 0], np.arange(5))


def test_options_are_put_back() -> None:
    """The number of threads that a manifest asks for is the process's own again after unload."""
    before = torch.get_num_threads()
    runtime = predictor("torch")
    runtime.load(model(options={"threads": before + 1, "dtype": "bfloat16"}))
    assert torch.get_num_threads() == before + 1
    found = runtime.predict({"pixels": np.zeros((2, 1, 8, 8), np.float32)})
    assert found["scores"].dtype == np.float32
    assert runtime.version() == torch.__version__
    runtime.unload()
    runtime.unload()
    assert torch.get_num_threads() == before


class TwoOutputs(torch.nn.Module):
    def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"mean": pixels.mean((1, 2, 3)), "most": pixels.amax((1, 2, 3))}


def fails() -> torch.nn.Module:
    raise RuntimeError("no weights here\nsecond line")


def leaves() -> torch.nn.Module:
    raise SystemExit(0)


@pytest.mark.parametrize(
    ("runtime", "changes", "said"),
    [
        ("torch", {"options": {"treads": 1}}, "has no option 'treads'; known are"),
        ("torch", {"options": {"threads": 0}}, "whole number from 1 to 1024, not 0"),
        ("torch", {"options": {"threads": True}}, "whole number from 1 to 1024, not True"),
        # OpenMP would end the process.
        ("torch", {"options": {"threads": 10**7}}, "from 1 to 1024, not 10000000"),
        ("onnxruntime", {"options": {"threads": -5}}, "from 1 to 1024, not -5"),
        ("torchscript", {"options": {"batch": 0}}, "from 1 to 1000000, not 0"),
        ("torch-export", {"options": {"batch": 0}}, "from 1 to 1000000, not 0"),
        ("torch", {"make": leaves}, r"cannot load digits \(SystemExit: 0\)"),
        ("torch", {"options": {"dtype": "float8"}}, "must be 'float16' or"),
        ("torch", {"make": fails}, r"cannot load digits \(RuntimeError: no weights here\)"),
        ("torch", {"make": lambda: print}, "must return an nn.Module"),
        ("onnxruntime", {"options": {"optimization": "most"}}, "must be 'none' or"),
        ("torch-export", {"make": fails}, "no weights here"),
    ],
)
def test_a_model_that_cannot_be_loaded(runtime: str, changes: Any, said: str) -> None:
    """What is wrong is said in one line, and nothing of the model stays."""
    before = torch.get_num_threads()
    made = predictor(runtime)
    with pytest.raises(EvaluationError, match=said) as caught:
        made.load(model(**changes))
    assert "\n" not in str(caught.value)
    assert torch.get_num_threads() == before
    with pytest.raises(EvaluationError, match="no model loaded"):
        made.predict({"pixels": np.zeros((1, 1, 8, 8), np.float32)})


def test_no_gpu_is_told() -> None:
    """The device of a manifest that is not here is a sentence, whichever runtime is asked."""
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(EvaluationError, match="finds no GPU"):
        predictor("torch").load(model(device="cuda"))
    with pytest.raises(EvaluationError, match="CUDAExecutionProvider"):
        predictor("onnxruntime").load(model(device="cuda"))


def test_outputs_go_by_name() -> None:
    """A module that returns a mapping is read by the names of the manifest; others are told."""
    runtime = predictor("torch")
    most = Tensor("most", "float32", (None,))
    runtime.load(model(make=TwoOutputs, outputs=[most]))
    assert (
        runtime.predict({"pixels": np.ones((3, 1, 8, 8), np.float32)})["most"].tolist() == [1] * 3
    )
    runtime.load(model(make=TwoOutputs, outputs=[SCORES]))
    with pytest.raises(EvaluationError, match=r"no tensor for the output 'scores'.*mean, most"):
        runtime.predict({"pixels": np.ones((3, 1, 8, 8), np.float32)})


class Recurrent(torch.nn.Module):
    """Gives a score, nothing, and the state that it ends with."""

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, None, torch.Tensor]:
        flat = pixels.flatten(1)
        return flat[:, :10], None, flat.mean(1)


def test_outputs_that_are_not_declared_are_known() -> None:
    """A runtime tells what a model gives beside the outputs that its manifest names: by name, or by
    place, and nothing where all are named or None.
    """
    runtime = predictor("torch")
    x = {"pixels": np.ones((3, 1, 8, 8), np.float32)}
    most, mean = (Tensor(name, "float32", (None,)) for name in ("most", "mean"))
    cases: list[tuple[Any, list[Tensor], tuple[str, ...]]] = [
        (TwoOutputs, [most], ("'mean'",)),
        (TwoOutputs, [most, mean], ()),
        (Recurrent, [SCORES], ("value 3 of 3",)),
        (network, [SCORES], ()),
    ]
    for make, outputs, beyond in cases:
        runtime.load(model(make=make, outputs=outputs))
        runtime.predict(x)
        assert runtime.undeclared == beyond  # type: ignore[attr-defined] # a predictor may have it


def test_an_export_to_onnx_is_made_once_for_each_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same weights and code are exported once; other weights, another option, a damaged file,
    and code whose file is not known are again. Answers are those of the module.
    """
    made: list[str] = []
    export = torch.onnx.export

    def counted(*given: Any, **options: Any) -> Any:
        made.append(str(given[2]))
        return export(*given, **options)

    monkeypatch.setattr(torch.onnx, "export", counted)
    pixels = np.random.default_rng(0).normal(size=(3, 1, 8, 8)).astype(np.float32)

    def layers() -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))

    kept, other, unknown = layers(), layers(), network()

    def scores(module: torch.nn.Module, **options: Any) -> np.ndarray[Any, Any]:
        runtime = predictor("onnxruntime")
        runtime.load(model(make=lambda: module, exports=tmp_path / "exports", options=options))
        found = runtime.predict({"pixels": pixels})["scores"]
        runtime.unload()
        return np.asarray(found)

    with torch.no_grad():
        expected = kept(torch.from_numpy(pixels)).numpy()
    assert np.allclose(scores(kept), expected, atol=1e-5)
    assert np.array_equal(scores(kept), scores(kept))
    assert len(made) == 1
    assert not np.allclose(scores(other), expected, atol=1e-3)
    scores(kept, batch=3)
    assert len(made) == 3
    for path in (tmp_path / "exports").glob("*/model.onnx"):
        path.write_bytes(b"not a model")
    assert np.allclose(scores(kept), expected, atol=1e-5)
    assert len(made) == 4
    scores(unknown)
    scores(unknown)
    assert len(made) == 6
    assert not list((tmp_path / "exports").glob("incoming-*"))


def test_names_of_an_onnx_file_are_checked(tmp_path: Path) -> None:
    """A manifest whose inputs or outputs are not those of the file is told before it runs; outputs
    that it leaves out are known.
    """
    import onnx
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Neg", ["x"], ["z"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 2]) for name in "yz"],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), tmp_path / "m.onnx")
    x, y = (Tensor(name, "float32", (None, 2)) for name in "xy")
    runtime = predictor("onnxruntime")
    file: dict[str, Any] = {"format": "onnx", "path": tmp_path / "m.onnx", "make": None}
    runtime.load(model(**file, inputs=[x], outputs=[y]))
    found = runtime.predict({"x": np.array([[-1, 1]], np.float32)})
    assert found["y"].tolist() == [[0, 1]]
    assert runtime.undeclared == ("'z'",)  # type: ignore[attr-defined] # a predictor may have it
    with pytest.raises(EvaluationError, match="has the inputs x, but its manifest says y"):
        runtime.load(model(**file, inputs=[y], outputs=[y]))
    with pytest.raises(EvaluationError, match="has no output 'x'; it has y, z"):
        runtime.load(model(**file, inputs=[x], outputs=[x]))
    (tmp_path / "m.onnx").write_bytes(b"not a model")
    with pytest.raises(EvaluationError, match="onnxruntime cannot load digits"):
        runtime.load(model(**file, inputs=[x], outputs=[y]))


def test_a_pickle_is_not_torchscript(tmp_path: Path) -> None:
    """A file that torch.save wrote is refused before anything of it is read."""
    torch.save(network().state_dict(), tmp_path / "whole.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps({"a": 1}))
    for name in ("whole.pt", "plain.pt"):
        with pytest.raises(EvaluationError, match="is not TorchScript"):
            predictor("torchscript").load(
                model(format=TORCHSCRIPT, path=tmp_path / name, make=None)
            )


class Doubled:
    """A third party's predictor."""

    name = "doubled"
    formats = frozenset({MODULE})

    def load(self, model: LoadedModel) -> None: ...

    def predict(self, batch: Any) -> Any:
        return {"scores": batch["pixels"].sum((1, 2, 3))[:, None] * 2}

    def unload(self) -> None: ...

    def version(self) -> str:
        return "1"

    def target(self, batch: Any) -> None: ...


def test_others_bring_predictors(monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry point makes a predictor known by its name; one that is broken is told."""
    here = f"{__name__}:"
    entries = [
        EntryPoint("doubled", f"{here}Doubled", registry.GROUP),
        EntryPoint("broken", f"{here}missing", registry.GROUP),
        EntryPoint("partial", "builtins:object", registry.GROUP),
    ]
    monkeypatch.setattr(registry, "entry_points", lambda group: entries)
    assert {"torch", "onnxruntime", "doubled"} <= set(predictor_names())
    made = predictor("doubled")
    assert made.predict({"pixels": np.ones((1, 1, 8, 8))})["scores"].tolist() == [[128.0]]
    with pytest.raises(EvaluationError, match=r"'broken'.*cannot be made"):
        predictor("broken")
    with pytest.raises(EvaluationError, match=r"'partial'.*lacks methods"):
        predictor("partial")
    with pytest.raises(EvaluationError, match="no predictor 'tensorflow'; known are torch"):
        predictor("tensorflow")
