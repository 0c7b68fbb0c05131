"""Benchmarks of the layers in layers.json, one for each: pytest layers_bench.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from layer_calls.layer import Layer  # type: ignore[import-not-found] # beside it, once exported
from layer_calls.torch_calls import torch_call  # type: ignore[import-not-found] # the same

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ROWS = json.loads((Path(__file__).parent / "layers.json").read_text())
LAYERS = [Layer.from_key(row["layer"]) for row in ROWS]


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: f"{layer.operator}-{layer.digest}")
def test_layer(layer: Any, benchmark: Any) -> None:
    """Time one call; tensors and everything else are made before."""
    call = torch_call(layer, DEVICE)
    if call is None:
        pytest.skip(f"no benchmark is known for {layer.operator}")

    def run() -> None:
        call()
        if DEVICE == "cuda":
            torch.cuda.synchronize()

    with torch.inference_mode():
        run()
        benchmark(run)
