"""The pipeline of an evaluation: steps compute what they say, stages wait for each other."""

from __future__ import annotations

import io
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from evaluated_models import sha256, write_digits

import xsp
from xsp.errors import EvaluationError
from xsp.evaluation.artifacts.gathering import gather
from xsp.evaluation.artifacts.store import ArtifactStore
from xsp.evaluation.manifest import steps
from xsp.evaluation.manifest.reading import read_manifest
from xsp.evaluation.pipeline import input_steps, output_steps
from xsp.evaluation.pipeline.assembling import Assembled, assemble
from xsp.evaluation.pipeline.passing import pass_through
from xsp.evaluation.pipeline.stream import Stage, StageSpan, stream
from xsp.evaluation.pipeline.system import MakeSystem
from xsp.evaluation.predictors.eager import Eager
from xsp.evaluation.predictors.predictor import Batch, Predictor
from xsp.evaluation.tracing import traced


def step(kind: type[steps.Step], **given: Any) -> steps.Step:
    name = kind.model_fields["step"].annotation
    return kind(step=name.__args__[0], **given)  # type: ignore[union-attr, call-arg] # a Literal


def png(pixels: np.ndarray[Any, Any]) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


# ---- steps ----


def test_an_image_is_decoded() -> None:
    """Bytes become height, width and channels, in RGB or gray."""
    pixels = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    raw = np.frombuffer(png(pixels), np.uint8)
    found = input_steps.apply([step(steps.Decode)], raw)
    assert (found == pixels).all()
    assert input_steps.apply([step(steps.Decode, colors="gray")], png(pixels)).shape == (4, 5, 1)
    with pytest.raises(EvaluationError, match="not an image"):
        input_steps.apply([step(steps.Decode)], b"GIF89a no more")


@pytest.mark.parametrize(("height", "width"), [(20, 30), (7, 5), (64, 64)])
def test_resizing_agrees_with_pillow(height: int, width: int) -> None:
    """Bilinear resizing of a picture is Pillow's, to one grey level."""
    from PIL import Image

    y, x = np.mgrid[0:40, 0:50]
    pixels = np.stack([x * 5, y * 6, (x + y) * 2], axis=-1).astype(np.uint8)
    found = input_steps.apply([step(steps.Resize, height=height, width=width)], pixels)
    right = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))
    assert found.dtype == np.uint8
    assert np.abs(found.astype(int) - right.astype(int)).max() <= 1


def test_fitting_the_shorter_side_keeps_the_ratio() -> None:
    """Resize and crop as ImageNet's models have them: no side is shorter than asked."""
    pixels = np.zeros((40, 80, 3), np.uint8)
    resize = step(steps.Resize, height=20, width=20, fit="shorter")
    assert input_steps.apply([resize], pixels).shape == (20, 40, 3)
    assert input_steps.apply([resize, step(steps.Crop, height=20, width=20)], pixels).shape[1] == 20
    with pytest.raises(EvaluationError, match="smaller than 50 x 20"):
        input_steps.apply([step(steps.Crop, height=50, width=20)], pixels)


def test_array_steps() -> None:
    """Scale, normalize, transpose, reshape, pad and cast, against numpy."""
    x = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    chain = [
        step(steps.Scale, factor=0.5, offset=1.0),
        step(steps.Normalize, mean=(1.0, 2.0, 3.0), std=(2.0, 4.0, 8.0)),
        step(steps.Transpose, axes=(2, 0, 1)),
        step(steps.Reshape, shape=(3, -1)),
        step(steps.Pad, length=4, value=7.0),
        step(steps.Cast, dtype="float16"),
    ]
    expected = ((x * 0.5 + 1 - [1, 2, 3]) / [2, 4, 8]).transpose(2, 0, 1).reshape(3, -1)
    found = input_steps.apply(chain, x)
    assert found.dtype == np.float16
    np.testing.assert_allclose(found[:3], expected, rtol=1e-3)
    assert (found[3] == 7).all()
    assert input_steps.apply([step(steps.Pad, length=2)], np.arange(5)).tolist() == [0, 1]


def test_output_steps() -> None:
    """Softmax, sigmoid, unit vectors, classes and thresholds, over the last axis."""
    x = np.array([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])
    probabilities = output_steps.apply([step(steps.Softmax)], x)
    np.testing.assert_allclose(probabilities.sum(-1), 1)
    np.testing.assert_allclose(output_steps.apply([step(steps.Sigmoid)], x)[1], 0.5)
    np.testing.assert_allclose(
        np.linalg.norm(output_steps.apply([step(steps.Unit)], x), axis=-1), [1, 0]
    )
    assert output_steps.apply([step(steps.ArgMax)], x).tolist() == [2, 0]
    assert output_steps.apply([step(steps.Threshold, at=2.0)], x).tolist() == [[0, 1, 1], [0, 0, 0]]


# ---- the stream ----


def test_a_stream_keeps_order_and_records_stages() -> None:
    """Items come out in order; every stage has a span for each, which do not overlap in a stage and
    follow each other from stage to stage.
    """
    spans: list[StageSpan] = []
    stages = [Stage("double", lambda x: 2 * x), Stage("add", lambda x: x + 1)]
    assert list(stream(range(20), stages, record=spans.append)) == [2 * x + 1 for x in range(20)]
    for name in ("double", "add"):
        own = [span for span in spans if span.stage == name]
        assert [span.item for span in own] == list(range(20))
        assert all(a.end_ns <= b.start_ns for a, b in pairwise(own))
        assert len({span.thread for span in own}) == 1
    at = {(span.stage, span.item): span for span in spans}
    assert all(at["double", n].end_ns <= at["add", n].start_ns for n in range(20))
    assert len({span.thread for span in spans}) == 2


def test_a_slow_stage_holds_back_the_source() -> None:
    """While the last stage holds one item, the source is read only as far as the queues allow."""
    read: list[int] = []
    go, full = threading.Event(), threading.Event()

    def source() -> Iterator[int]:
        for number in range(100):
            read.append(number)
            if number == 5:
                full.set()
            yield number

    def slow(item: int) -> int:
        assert go.wait(60)
        return item

    found: list[int] = []
    stages = [Stage("pass", lambda x: x), Stage("slow", slow)]
    caller = threading.Thread(target=lambda: found.extend(stream(source(), stages, waiting=1)))
    caller.start()
    # One item in the last stage, one before it, one in the first stage, one before it, and the one
    # that the source wants to hand over: the sixth is read only when the slow stage goes on.
    assert not full.wait(0.5)
    assert len(read) <= 5
    go.set()
    caller.join(60)
    assert found == list(range(100))


@pytest.mark.parametrize("place", ["source", "first", "last"])
def test_a_failing_stage_ends_the_stream(place: str) -> None:
    """What was before the failing item comes out, then its exception; no thread stays."""
    before = threading.active_count()

    def failing(number: int) -> int:
        if number == 3:
            raise ValueError("the fourth")
        return number

    def source() -> Iterator[int]:
        for number in range(1000):
            yield failing(number) if place == "source" else number

    stages = [
        Stage("first", failing if place == "first" else int),
        Stage("last", failing if place == "last" else int),
    ]
    found: list[int] = []
    with pytest.raises(ValueError, match="the fourth"):
        found.extend(stream(source(), stages))
    assert found == [0, 1, 2]
    assert threading.active_count() == before


def test_a_stream_that_is_left_early_ends() -> None:
    """A caller that stops reading leaves no thread behind."""
    before = threading.active_count()
    items = stream(iter(int, 1), [Stage("a", int), Stage("b", int)])
    assert next(items) == 0
    items.close()  # type: ignore[attr-defined] # a generator
    assert threading.active_count() == before


# ---- a manifest's pipeline ----


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Assembled]:
    folder = tmp_path_factory.mktemp("digits")
    store = ArtifactStore(folder / "store")
    manifest = gather(read_manifest(write_digits(folder)), folder, store)
    with assemble(manifest, store, allow_code=True) as assembled:
        yield assembled


def test_every_sample_passes_once(made: Assembled) -> None:
    """Batches cover the data set, the last one smaller, and each stage has a span for each."""
    seen: list[int] = []
    spans: list[StageSpan] = []
    total = pass_through(made, 100, lambda _, rows: seen.append(len(rows)), record=spans.append)
    assert total == sum(seen) == 597
    assert seen == [100] * 5 + [97]
    names = ("read", "preprocess", "predict", "postprocess", "judge")
    assert sorted((span.stage, span.item) for span in spans) == sorted(
        (name, item) for name in names for item in range(6)
    )


@pytest.mark.parametrize(
    ("level", "traced_levels"),
    [("MODEL", {"MODEL"}), ("FRAMEWORK", {"MODEL", "LAYER"}), ("FULL", {"MODEL", "LAYER"})],
)
def test_a_trace_has_the_levels_of_its_name(
    made: Assembled, level: str, traced_levels: set[str], tmp_path: Path
) -> None:
    """MODEL is the whole calls, FRAMEWORK the layers too; what of FULL a machine without a GPU
    cannot trace is said.
    """
    store = ArtifactStore(tmp_path)
    found, notes = traced(made, level, store, budget_s=0)
    (capture,) = (each for each in found if each.kind == "capture")
    kept = store.get(capture.sha256)
    assert kept is not None
    assert set(xsp.load(kept).spans["level"].astype(str)) == traced_levels
    assert bool(notes) == (level == "FULL" and not torch.cuda.is_available())


def test_one_input_with_an_axis_for_samples_is_enough(made: Assembled) -> None:
    """A model that takes samples beside a state of fixed shape gets whole batches."""
    inputs = made.manifest.model.inputs
    state = inputs[0].model_copy(update={"name": "state", "shape": (1, 1, 8)})
    model = made.manifest.model.model_copy(update={"inputs": (*inputs, state)})
    manifest = made.manifest.model_copy(update={"model": model})
    assert replace(made, manifest=manifest).several
    alone = model.model_copy(update={"inputs": (state,)})
    assert not replace(made, manifest=manifest.model_copy(update={"model": alone})).several


@pytest.mark.parametrize("timed", ["model", "pipeline"])
def test_a_system_answers_samples(timed: str, tmp_path: Path) -> None:
    """What scenarios query takes any indices, also beyond the data set, in batches of any size."""
    store = ArtifactStore(tmp_path / "store")
    path = write_digits(tmp_path, timed=timed)
    manifest = gather(read_manifest(path), tmp_path, store)
    answer = MakeSystem(manifest.canonical(), store.folder, True)()
    for indices in ([0], [5, 3, 5], list(range(1000))):
        assert answer(indices) is None
    with pytest.raises(EvaluationError, match="is code"):
        MakeSystem(manifest.canonical(), store.folder, False)()


def test_a_query_takes_its_samples_into_memory_that_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every query has its own samples, in memory of the query before: the page faults of new memory
    would count as the model's.
    """
    seen: list[tuple[int, np.ndarray[Any, Any]]] = []

    def predict(_: Eager, batch: Batch) -> dict[str, Any]:
        pixels = batch["pixels"]
        seen.append((pixels.ctypes.data, pixels.copy()))
        return {"scores": np.zeros((len(pixels), 10), np.float32)}

    monkeypatch.setattr(Eager, "predict", predict)
    store = ArtifactStore(tmp_path / "store")
    manifest = gather(read_manifest(write_digits(tmp_path)), tmp_path, store)
    answer = MakeSystem(manifest.canonical(), store.folder, True)()
    for indices in ([7, 3], [3], [597 + 7, 5]):
        answer(indices)
    assert len({address for address, _ in seen}) == 1
    (both, alone, more) = (pixels for _, pixels in seen)
    assert (both.shape, alone.shape) == ((2, 1, 8, 8), (1, 1, 8, 8))
    np.testing.assert_array_equal(both[1], alone[0])
    np.testing.assert_array_equal(both[0], more[0])
    assert not np.array_equal(both[0], both[1])
    assert not np.array_equal(more[1], both[1])


class Fixed:
    """Stands for a program that was traced for two samples and takes others without a word."""

    def __init__(self, runtime: Any) -> None:
        self.load, self.unload = runtime.load, runtime.unload
        self._predict = runtime.predict

    def predict(self, batch: Any) -> Any:
        return self._predict({name: np.concatenate([x, x])[:2] for name, x in batch.items()})


@pytest.mark.parametrize("timed", ["model", "pipeline"])
def test_outputs_of_other_samples_are_told(
    timed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that answers another number of samples than it was asked for is neither judged nor
    timed.
    """
    store = ArtifactStore(tmp_path / "store")
    manifest = gather(read_manifest(write_digits(tmp_path, timed=timed)), tmp_path, store)
    made = assemble(manifest, store, allow_code=True)
    wrong = replace(made, predictor=cast("Predictor", Fixed(made.predictor)))
    said = r"'scores' has the shape \[2, 10\] for 1 samples, but the manifest says \[batch, 10\]"
    with pytest.raises(EvaluationError, match=said):
        pass_through(wrong, 1, lambda *_: None)
    monkeypatch.setattr("xsp.evaluation.pipeline.system.assemble", lambda *_, **__: wrong)
    answer = MakeSystem.of(manifest, store, allow_code=True)()
    answer([3, 4])
    with pytest.raises(EvaluationError, match=said):
        answer([3])


PREPARED = """
import numpy as np

def before(rows, lower=0.0):
    pixels = np.stack([row["image"] for row in rows]).transpose(0, 3, 1, 2)
    return {"pixels": (pixels / 8 - lower).astype("float32" if lower else "float64")}

def after(outputs):
    return {"scores": outputs["scores"], "best": outputs["scores"].argmax(-1)}

def nothing(rows):
    return None

def fails(rows):
    raise KeyError("no such column")

def data(n=4):
    return {"image": np.zeros((n, 8, 8, 1), np.uint8), "label": [0] * n}

def leaves(rows):
    raise SystemExit(0)

def says_lines(rows):
    raise ValueError("one\\ntwo")

def single():
    return {"image": np.zeros((4, 8, 8, 1), np.uint8), "label": 3}

def uneven():
    return {"image": [1], "label": [1, 2]}

def no_columns():
    return [1, 2]
"""


def answered(folder: Path, *changes: tuple[str, str]) -> Any:
    """What the digits' pipeline answers for two samples, with its manifest's text changed."""
    path = write_digits(folder)
    (folder / "own.py").write_text(PREPARED)
    text = path.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)
    store = ArtifactStore(folder / "store")
    manifest = gather(read_manifest(path), folder, store)
    with assemble(manifest, store, allow_code=True) as assembled:
        return assembled.answer([0, 1])


STEPS = """      steps:
        - {step: normalize, mean: [8.0], std: [8.0]}
        - {step: transpose, axes: [2, 0, 1]}
"""


def with_code(before: str, arguments: str = "") -> tuple[tuple[str, str], tuple[str, str]]:
    code = f"{{function: 'own.py:{before}'{arguments}}}"
    return (STEPS, ""), ("  outputs:\n", f"  preprocess: {code}\n  outputs:\n")


def test_python_in_place_of_steps(tmp_path: Path) -> None:
    """Functions of the manifest prepare and finish batches, with the arguments that it gives."""
    plain = answered(tmp_path / "a")
    finish = "  postprocess: {function: 'own.py:after'}\nruntime:"
    changes = (*with_code("before", ", arguments: {lower: 1.0}"), ("runtime:", finish))
    found = answered(tmp_path / "b", *changes)
    np.testing.assert_allclose(found["scores"], plain["scores"], atol=1e-5)
    assert found["best"].tolist() == plain["scores"].argmax(-1).tolist()


WRONG: dict[str, tuple[tuple[tuple[str, str], ...], str]] = {
    "another type": (with_code("before"), "is float64, but the model takes float32; add the step"),
    "nothing": (with_code("nothing"), "preprocess returned a NoneType"),
    "an exception": (with_code("fails"), r"failed \(KeyError: 'no such column'\)"),
    "an exit": (with_code("leaves"), r"'own.py:leaves' failed \(SystemExit: 0\)"),
    "several lines": (with_code("says_lines"), r"failed \(ValueError: one\)"),
    "no function": (with_code("missing"), "has no function 'missing'"),
    "another shape": (
        (("shape: [batch, 1, 8, 8]", "shape: [batch, 1, 9, 8]"),),
        r"has the shape \[2, 1, 8, 8\] for 2 samples, but the model takes \[2, 1, 9, 8\]",
    ),
    "a column that is not there": (
        (("column: image", "column: picture"),),
        "has no column 'picture'; it has image, label",
    ),
    "a target that is not there": (
        (
            (
                "target: label}\n    - {metric: top_k, k: 5",
                "target: truth}\n    - {metric: top_k, k: 5",
            ),
        ),
        "has no column 'truth'",
    ),
    "a version that is not here": (
        (("'>=2.5'", "'>=99'"),),
        "needs torch >=99, but .* is installed: pip install",
    ),
    "a framework that is not here": (
        (("{name: torch, version: '>=2.5'}", "{name: no-such, version: '>=1'}"),),
        "needs no-such >=1, which is not installed",
    ),
    "a predictor of another format": (
        (("kind: python", "kind: torchscript"),),
        "runs module, but digits-cnn 1.0.0 comes as torchscript",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_does_not_fit_is_told(kind: str, tmp_path: Path) -> None:
    """What only shows when the parts are put together is one sentence, before anything is timed."""
    changes, said = WRONG[kind]
    if kind == "a predictor of another format":
        text = "    make: {function: 'digits.py:make'}\n    weights: "
        changes = (*changes, (text, "    artifact: "))
    with pytest.raises(EvaluationError, match=said) as caught:
        answered(tmp_path, *changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("data", None),
        ("uneven", "must have one length"),
        ("single", "column 'label' is a single int"),
        ("no_columns", "must return a mapping"),
        ("fails", r"failed \(TypeError"),
    ],
)
def test_data_from_python(function: str, said: str | None, tmp_path: Path) -> None:
    """A function makes the samples; what it gets wrong is told."""
    text = (write_digits(tmp_path / "x")).read_text()
    old = text[text.index("dataset:") : text.index("metrics:")]
    new = f"dataset:\n  kind: python\n  make: {{function: 'own.py:{function}'}}\n"
    if said is None:
        assert answered(tmp_path, (old, new))["scores"].shape == (2, 10)
        return
    with pytest.raises(EvaluationError, match=said):
        answered(tmp_path, (old, new))


def test_a_model_that_fails_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a model raises when it is called, an exit too, says which model on which runtime."""
    store = ArtifactStore(tmp_path / "store")
    manifest = gather(read_manifest(write_digits(tmp_path)), tmp_path, store)
    for raised in (SystemExit(0), RuntimeError("one\ntwo"), MemoryError()):

        def predict(_: Eager, __: Batch, error: BaseException = raised) -> dict[str, Any]:
            raise error

        monkeypatch.setattr(Eager, "predict", predict)
        with assemble(manifest, store, allow_code=True) as made:
            said = rf"^digits-cnn 1.0.0 fails on torch \({type(raised).__name__}"
            with pytest.raises(EvaluationError, match=said) as caught:
                pass_through(made, 100, lambda *_: None)
            assert "\n" not in str(caught.value)


def npz_of(header: str) -> bytes:
    """An .npz whose columns have this header and no values."""
    begin = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in ("image", "label"):
            archive.writestr(f"{name}.npy", begin + header.encode())
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"no archive",
        npz_of("{'descr': '<i8', 'fortran_order': False, 'shape': (1000000000000000,), }\n"),
        npz_of("(" * 5000),
        npz_of("{'descr': '|O', 'fortran_order': False, 'shape': (4,), }\n"),
    ],
    ids=["no archive", "more than memory", "a damaged header", "pickles"],
)
def test_arrays_that_cannot_be_read_are_one_sentence(content: bytes, tmp_path: Path) -> None:
    """A file that is no .npz, is damaged, claims more than memory holds or has pickles is told."""
    (tmp_path / "x.npz").write_bytes(content)
    data = f"{{kind: file, path: x.npz, sha256: '{sha256(content)}'}}"
    path = write_digits(tmp_path, dataset=f"{{kind: arrays, artifact: {data}}}")
    store = ArtifactStore(tmp_path / "store")
    manifest = gather(read_manifest(path), tmp_path, store)
    with pytest.raises(EvaluationError, match=r"is not a \.npz file of plain arrays") as caught:
        assemble(manifest, store, allow_code=True)
    assert "\n" not in str(caught.value)


def test_random_values_that_memory_cannot_hold_are_refused(tmp_path: Path) -> None:
    """Before they are made: what they take and what there is."""
    data = "{kind: random, samples: 1000000000}"
    path = write_digits(tmp_path, dataset=data, metrics="{}")
    store = ArtifactStore(tmp_path / "store")
    manifest = gather(read_manifest(path), tmp_path, store)
    with pytest.raises(EvaluationError, match=r"take 476\.8 GiB of memory, but this machine has"):
        assemble(manifest, store, allow_code=True)
