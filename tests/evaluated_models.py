"""A small network, its data and its manifest, for tests of evaluations. The network is trained on
scikit-learn's handwritten digits, which needs no download.
"""

from __future__ import annotations

import hashlib
import io
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

SOURCE = """
import torch


class Digits(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(1, 8, 3, padding=1)
        self.conv2 = torch.nn.Conv2d(8, 16, 3, padding=1)
        self.fc = torch.nn.Linear(16 * 4 * 4, 10)

    def forward(self, pixels):
        x = torch.relu(self.conv1(pixels))
        x = torch.max_pool2d(torch.relu(self.conv2(x)), 2)
        return self.fc(x.flatten(1))


def make():
    return Digits()
"""


def network() -> torch.nn.Module:
    """The network of the source above, with random weights."""
    space: dict[str, Any] = {"__name__": "digits"}
    exec(SOURCE, space)
    made: torch.nn.Module = space["make"]()
    return made


@cache
def trained() -> tuple[bytes, bytes]:
    """Weights and test data as files: a few passes over two thirds of the digits."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 8 - 1
    labels = torch.tensor(digits.target)
    torch.manual_seed(0)
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(4):
        for rows in torch.randperm(1200).split(32):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(pixels[rows]), labels[rows]).backward()
            optimizer.step()
    weights, data = io.BytesIO(), io.BytesIO()
    torch.save(model.state_dict(), weights)
    np.savez(
        data,
        image=digits.images[1200:].astype(np.uint8)[..., None],
        label=digits.target[1200:].astype(np.int64),
    )
    return weights.getvalue(), data.getvalue()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def manifest_text(**changes: str) -> str:
    """The digits' manifest; a changed part replaces the line that begins with its key."""
    weights, data = trained()
    parts = {
        "xsp": "1",
        "name": "digits",
        "model": f"""
  name: digits-cnn
  version: 1.0.0
  task: image classification
  framework: {{name: torch, version: '>=2.5'}}
  source:
    kind: python
    make: {{function: 'digits.py:make'}}
    weights: {{kind: file, path: digits.pt, sha256: {sha256(weights)!r}}}
  inputs:
    - name: pixels
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
      shape: [batch, 10]""",
        "runtime": "{predictor: torch}",
        "scenario": "{kind: single_stream, queries: 64}",
        "dataset": f"""
  kind: arrays
  artifact: {{kind: file, path: digits.npz, sha256: {sha256(data)!r}}}""",
        "metrics": """
  accuracy:
    - {metric: top_k, k: 1, output: scores, target: label}
    - {metric: top_k, k: 5, output: scores, target: label}
    - {metric: f1, output: scores, target: label}""",
    }
    return "".join(f"{name}: {text}\n" for name, text in {**parts, **changes}.items())


def write_digits(folder: Path, **changes: str) -> Path:
    """The manifest with everything that it names, in a folder; returns its path."""
    weights, data = trained()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "digits.py").write_text(SOURCE)
    (folder / "digits.pt").write_bytes(weights)
    (folder / "digits.npz").write_bytes(data)
    path = folder / "digits.yaml"
    path.write_text(manifest_text(**changes))
    return path
