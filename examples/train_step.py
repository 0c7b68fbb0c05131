"""One training step of ResNet-50: forward, cross entropy, backward, SGD with momentum.

Run it (`python examples/train_step.py`), or hand it to the command line
(`xsp profile examples/train_step.py`), which calls `target()`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

import xsp

# The model lies beside this file, which may also be loaded by path.
sys.path.insert(0, str(Path(__file__).parent))
from resnet50 import ResNet50

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPE = torch.float16 if DEVICE == "cuda" else torch.float32
BATCH = 32 if DEVICE == "cuda" else 2
IMAGE = 224
CLASSES = 1000


def target(
    batch: int = BATCH, dtype: torch.dtype = DTYPE, device: str = DEVICE, image: int = IMAGE
) -> Callable[[], Tensor]:
    """A training step that returns its loss; weights stay in float32, `dtype` is that of the
    autocast region.
    """
    model = ResNet50(CLASSES).train().to(device)
    # The recipe's rate of 0.1 is for a batch of 256.
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.1 * batch / 256, momentum=0.9, weight_decay=1e-4
    )
    # Gradients of float16 activations underflow unless the loss is scaled.
    scaler = torch.amp.GradScaler(device, enabled=dtype is torch.float16)
    images = torch.randn(batch, 3, image, image, device=device)
    labels = torch.randint(CLASSES, (batch,), device=device)

    def step() -> Tensor:
        optimizer.zero_grad()
        with torch.autocast(device, dtype, enabled=dtype is not torch.float32):
            loss = functional.cross_entropy(model(images), labels)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return loss.detach()

    return step


def main() -> None:
    """Measure the training step, print the profile and save it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument(
        "--image", type=int, default=IMAGE, help="height and width of the images, in pixels"
    )
    parser.add_argument(
        "--dtype", default=str(DTYPE).removeprefix("torch."), help="float16, bfloat16 or float32"
    )
    parser.add_argument("--device", default=DEVICE)
    parser.add_argument(
        "--budget-s", type=float, default=30.0, help="seconds for the rounds of runs"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("train_step.xsp"), help="where to save the capture"
    )
    arguments = parser.parse_args()

    step = target(
        arguments.batch, getattr(torch, arguments.dtype), arguments.device, arguments.image
    )
    prof = xsp.measure(step, budget_s=arguments.budget_s)
    print(prof)
    prof.save(arguments.output)


if __name__ == "__main__":
    main()
