"""Bricks on a GPU: what they do there, and latencies composed of host and device timelines."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_models import Convolutional, Transformer, ready
from torch import nn

import xsp
from xsp.brickwork.result import Bricks

pytestmark = pytest.mark.gpu


class Wide(nn.Module):
    """Products that keep the GPU far longer than the host needs to launch them."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(each for _ in range(6) for each in (nn.Linear(4096, 4096), nn.ReLU()))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.layers(x)
        return output


def on_gpu(kind: type[nn.Module]) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    model, inputs = ready(kind)
    return model.cuda(), tuple(each.cuda() for each in inputs)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Bricks:
    wide = Wide().eval().cuda(), torch.randn(4096, 4096, device="cuda")
    return xsp.bricks(
        on_gpu(Convolutional),
        on_gpu(Transformer),
        wide,
        names=["convolutional", "transformer", "wide"],
        granularity=(1, 3),
        database=tmp_path_factory.mktemp("bricks") / "layers.sqlite",
        statistics="paper",
        budget_s=15,
        progress=False,
    )


def test_every_brick_has_a_device_timeline(found: Bricks) -> None:
    """Kernel records of each: those that compute take the GPU some time, and less than a call that
    waits for it.
    """
    table = found.bricks(1)
    assert not found.failures
    assert (table["failure"] == "").all()
    assert (table["device_us"] > 0).all()
    assert (table["host_us"] > 0).all()
    assert (table["device_us"] < table["time_us"]).all()


def test_replayed_latencies_are_nearer_than_sums(found: Bricks) -> None:
    """A sum of calls that each wait for the GPU is too long; the replay lets the host run ahead."""
    table = found.models.set_index(["model", "granularity", "rule"])["normalised"]
    for model in ("convolutional", "transformer"):
        assert table[model, 1, "replay"] < table[model, 1, "sum"]


def test_a_model_bound_by_the_gpu_is_composed_within_a_tenth(found: Bricks) -> None:
    """Products of 4096 x 4096 matrices: the replayed latency is the measured one."""
    table = found.models.set_index(["model", "granularity", "rule"])["normalised"]
    assert table["wide", 1, "replay"] == pytest.approx(1.0, abs=0.1)
    assert table["wide", 3, "replay"] == pytest.approx(1.0, abs=0.1)


def test_the_operations_of_bricks_keep_the_gpu_as_long_as_the_models_do(found: Bricks) -> None:
    """By kernel records of both, where the operations are long enough to be compared."""
    table = found.models
    wide = table[(table["model"] == "wide") & (table["rule"] == "replay")]
    for row in wide[wide["granularity"].isin([1, 3])].to_dict("records"):
        assert row["constructed_device_ms"] == pytest.approx(row["device_ms"], rel=0.1)


def test_training_steps_are_measured_too(tmp_path: Path) -> None:
    """Bricks with their backward passes, waited for."""
    model, inputs = on_gpu(Convolutional)
    model.train()
    trained = xsp.bricks(
        (model, inputs),
        database=tmp_path / "layers.sqlite",
        budget_s=10,
        progress=False,
    )
    assert not trained.failures
    rows = trained.models[trained.models["rule"] == "sum"]
    assert (rows["constructed_ms"] > 0).all()
