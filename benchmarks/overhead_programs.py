"""The programs whose slow-down `overhead.py` measures: inference and a training step, of large and
of very many small operators. Weights are random, and nothing is downloaded.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))
import resnet50
import train_step
import transformer

# Other benchmarks import the examples from here, where the path to them is set.
__all__ = [
    "ON_A_CPU",
    "PROGRAMS",
    "Inference",
    "inference",
    "resnet50",
    "train_step",
    "transformer",
]

Program = Callable[[], Any]

SCAN_STEPS = 64
LINEARS = 200


class SelectiveScan(nn.Module):
    """A gated linear recurrence over time in plain operators, as state space models begin."""

    def __init__(self, width: int = 256) -> None:
        super().__init__()
        self.gates = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        decay, update = self.gates(x).chunk(2, dim=-1)
        state = torch.zeros_like(x[:, 0])
        states = []
        for step in range(x.shape[1]):
            state = state * torch.sigmoid(decay[:, step]) + update[:, step]
            states.append(state)
        output: Tensor = self.out(torch.stack(states, dim=1))
        return output


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


class Inference:
    """A forward pass without gradients."""

    def __init__(self, model: nn.Module, *inputs: Any, **named: Any) -> None:
        self.model, self.inputs, self.named = model.eval().requires_grad_(False), inputs, named

    def __call__(self) -> Any:
        with torch.no_grad():
            return self.model(*self.inputs, **self.named)


def inference(module: Any, **options: Any) -> Inference:
    """A forward pass of a module of `examples/` without gradients."""
    model, inputs = module.target(**options)
    return Inference(model, *inputs)


def _images(name: str, batch: int = 1, pixels: int = 224) -> Program:
    import torchvision

    model = getattr(torchvision.models, name)(weights=None).to(_device())
    return Inference(model, torch.rand(batch, 3, pixels, pixels, device=_device()))


def _mask_rcnn() -> Program:
    from torchvision.models.detection import maskrcnn_resnet50_fpn

    model = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None).to(_device())
    return Inference(model, [torch.rand(3, 480, 640, device=_device())])


def _deberta() -> Program:
    from transformers import DebertaV2Config, DebertaV2Model

    config = DebertaV2Config(
        hidden_size=768,
        num_hidden_layers=12,
        num_attention_heads=12,
        intermediate_size=3072,
        relative_attention=True,
        pos_att_type=["p2c", "c2p"],
    )
    model = DebertaV2Model(config).to(_device())
    tokens = torch.randint(1, 1000, (1, 64), device=_device())
    return Inference(model, input_ids=tokens)


def _small_linears() -> Program:
    layers = [nn.Linear(64, 64) for _ in range(LINEARS)]
    return Inference(nn.Sequential(*layers).to(_device()), torch.rand(8, 64).to(_device()))


def _scan() -> Program:
    inputs = torch.rand(4, SCAN_STEPS, 256, device=_device())
    return Inference(SelectiveScan().to(_device()), inputs)


PROGRAMS: dict[str, Callable[[], Program]] = {
    "resnet50 batch 1": lambda: inference(resnet50, batch=1),
    "resnet50 batch 32": lambda: inference(resnet50, batch=32),
    "resnet50 batch 256": lambda: inference(resnet50, batch=256),
    "gpt2 batch 1, 64 tokens": lambda: inference(transformer, batch=1),
    "mobilenet_v3_large batch 1": lambda: _images("mobilenet_v3_large"),
    "200 small linears": _small_linears,
    "convnext_tiny batch 1": lambda: _images("convnext_tiny"),
    "mask r-cnn batch 1": _mask_rcnn,
    "selective scan, 64 steps": _scan,
    "deberta batch 1, 64 tokens": _deberta,
    "resnet50 training step, batch 32": lambda: train_step.target(batch=32),
}
ON_A_CPU = ("resnet50 batch 1", "gpt2 batch 1, 64 tokens", "selective scan, 64 steps")
