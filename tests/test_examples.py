"""The examples are the models they say they are."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

EXAMPLES = Path(__file__).parent.parent / "examples"
CPU = {"device": "cpu", "dtype": torch.float32}


@pytest.fixture(scope="module")
def examples() -> Iterator[dict[str, ModuleType]]:
    """The examples by name, imported as Python imports a script's neighbours."""
    path = sys.path.copy()
    sys.path.insert(0, str(EXAMPLES))
    yield {
        name: importlib.import_module(name) for name in ("resnet50", "transformer", "train_step")
    }
    sys.path[:] = path


@pytest.fixture(scope="module")
def gpt2(examples: dict[str, ModuleType]) -> torch.nn.Module:
    """GPT-2 small in float32; a module's fixture because it takes seconds to initialise."""
    model, _ = examples["transformer"].target(**CPU)
    result: torch.nn.Module = model
    return result


def test_resnet50_is_resnet50(examples: dict[str, ModuleType]) -> None:
    """ResNet-50 has the 25,557,032 parameters of the reference model, 53 convolutions, and 1000
    class scores.
    """
    model, inputs = examples["resnet50"].target(batch=2, image=64, **CPU)
    assert sum(parameter.numel() for parameter in model.parameters()) == 25_557_032
    assert sum(isinstance(module, torch.nn.Conv2d) for module in model.modules()) == 53
    assert model(*inputs).shape == (2, 1000)


def test_resnet50_strides_on_the_middle_convolution(examples: dict[str, ModuleType]) -> None:
    """It is version 1.5: the 3x3 convolution halves the image, the first 1x1 does not."""
    block = examples["resnet50"].Bottleneck(256, 128, stride=2)
    assert (block.conv1.stride, block.conv2.stride, block.conv3.stride) == ((1, 1), (2, 2), (1, 1))


def test_gpt2_is_gpt2_small(gpt2: torch.nn.Module) -> None:
    """GPT-2 small has 124,439,808 parameters with its head tied, and scores the whole vocabulary at
    each token.
    """
    assert sum(parameter.numel() for parameter in gpt2.parameters()) == 124_439_808
    assert gpt2.get_parameter("lm_head.weight") is gpt2.get_parameter("wte.weight")
    assert gpt2(torch.zeros(2, 8, dtype=torch.int64)).shape == (2, 8, 50257)


def test_gpt2_does_not_look_ahead(gpt2: torch.nn.Module) -> None:
    """Changing the last token leaves the scores at every earlier one as they were."""
    tokens = torch.arange(8)[None]
    changed = tokens.clone()
    changed[:, -1] = 100
    before, after = gpt2(tokens), gpt2(changed)
    torch.testing.assert_close(after[:, :-1], before[:, :-1])
    assert not torch.allclose(after[:, -1], before[:, -1])


def test_train_step_trains(examples: dict[str, ModuleType]) -> None:
    """Steps on one batch of two images reduce the loss from that of guessing among 1000 classes."""
    step = examples["train_step"].target(batch=2, image=32, **CPU)
    losses = [float(step()) for _ in range(4)]
    assert losses[0] > 5
    assert losses[-1] < losses[0] / 2


@pytest.mark.parametrize("name", ["resnet50", "transformer"])
def test_target_needs_no_arguments(name: str, examples: dict[str, ModuleType]) -> None:
    """`target()` gives a model and a tuple of inputs that fit it, which is what the command line
    runs.
    """
    model, inputs = examples[name].target()
    assert isinstance(model, torch.nn.Module)
    assert isinstance(inputs, tuple)
    assert torch.isfinite(model(*inputs)).all()
