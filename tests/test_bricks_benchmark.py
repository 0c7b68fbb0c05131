"""benchmarks/bricks.py: how a rule is chosen and judged, and runs that go on where they were."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any
from unittest import mock

import bricks
import bricks_summary
import pytest
import torch
from torch import nn


def rows(**normalised: float) -> list[dict[str, Any]]:
    """A model's rows: by name of the rule, at granularity 1."""
    return [
        {"granularity": 1, "rule": rule, "normalised": each} for rule, each in normalised.items()
    ]


def measurement(**models: list[dict[str, Any]]) -> dict[str, Any]:
    return {name: {"rows": each, "complete": True} for name, each in models.items()}


def test_the_rule_is_chosen_on_one_half_and_judged_on_the_other() -> None:
    """`sum` is best on a and c, so it is judged on b and d, where it is worse than the other."""
    one = measurement(
        a=rows(sum=1.0, overlap=0.8),
        b=rows(sum=1.3, overlap=1.0),
        c=rows(sum=1.0, overlap=0.8),
        d=rows(sum=1.3, overlap=1.0),
    )
    found = bricks_summary.summary({"0": one})
    assert found["chosen"] == "G = 1, sum"
    assert found["chosen_on"] == pytest.approx(1.0)
    assert found["judged_on_the_rest"] == pytest.approx(1.3)
    assert found["beyond_10_percent"] == {"b": 1.3, "d": 1.3}


def test_the_median_of_measurements_counts() -> None:
    """One measurement of three that is off changes nothing."""
    each = [measurement(a=rows(sum=value), b=rows(sum=1.0)) for value in (1.0, 0.5, 1.1)]
    found = bricks_summary.summary({str(number): one for number, one in enumerate(each)})
    assert found["geometric_mean"]["G = 1, sum"] == pytest.approx(1.0)


def test_a_model_in_the_json_is_not_measured_again(tmp_path: Path) -> None:
    """The first call measures and writes, the second builds nothing; a model that cannot be built
    is named and does not stop the other.
    """
    options = argparse.Namespace(
        output=tmp_path / "out.json",
        database=tmp_path / "bricks.sqlite",
        device="cpu",
        batch=1,
        statistics="paper",
        overlap=False,
        bracket=False,
        threads=1,
        clock="wall",
        group_s=0.0,
    )

    def built(name: str, *_: object) -> tuple[nn.Module, torch.Tensor]:
        if name == "none":
            raise ModuleNotFoundError("No module named 'none'")
        return nn.Sequential(nn.Linear(4, 4), nn.ReLU()).eval(), torch.randn(2, 4)

    with mock.patch.object(bricks, "built", built):
        bricks.measure(["one", "none"], 0, options, 60.0)
    kept = json.loads(options.output.read_text())["measurements"]["0"]
    assert {row["granularity"] for row in kept["one"]["rows"]} == {1, 3, 5, 10}
    assert "No module named 'none'" in kept["none"]["failure"]
    with mock.patch.object(bricks, "built", side_effect=AssertionError("built again")):
        bricks.measure(["one", "none"], 0, options, 60.0)
