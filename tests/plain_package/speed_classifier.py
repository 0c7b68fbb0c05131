"""Three tests of the package's speed, as a project would add them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from plain_package.model import Block, Classifier
from plain_package.training import training_step

pytestmark = pytest.mark.xsp(levels="ML", iterations=8, warmup=1, patience_s=0, max_slowdown=3)


def test_block(xsp: Any) -> None:
    with torch.no_grad():
        prof = xsp(Block(32).eval(), torch.ones(4, 32))
    assert len(prof.tree().query("level == 'LAYER'")) <= 4


@pytest.mark.parametrize("batch", [1, 8])
def test_inference(xsp: Any, batch: int) -> None:
    with torch.no_grad():
        xsp(Classifier().eval(), torch.ones(batch, 32), allocated_bytes=50_000)


@pytest.fixture(scope="module")
def model() -> Classifier:
    return Classifier()


class TestTraining:
    def test_step(self, xsp: Any, model: Classifier) -> None:
        xsp(training_step(model, torch.ones(8, 32), torch.zeros(8, dtype=torch.int64)))
