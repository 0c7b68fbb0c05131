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


def options_in(tmp_path: Path) -> argparse.Namespace:
    return argparse.Namespace(
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
        repeat=1,
        together=2,
        budget_s=60.0,
    )


def test_a_model_in_the_json_is_not_measured_again(tmp_path: Path) -> None:
    """The first call measures and writes, the second builds nothing; a model that cannot be built
    is named and does not stop the other.
    """
    options = options_in(tmp_path)

    def built(name: str, *_: object) -> tuple[nn.Module, torch.Tensor]:
        if name == "none":
            raise ModuleNotFoundError("No module named 'none'")
        return nn.Sequential(nn.Linear(4, 4), nn.ReLU()).eval(), torch.randn(2, 4)

    with mock.patch.object(bricks, "built", built):
        bricks.measure(["one", "none"], 0, options, 60.0)
    kept = json.loads(options.output.read_text())["measurements"]["0"]
    assert {row["granularity"] for row in kept["one"]["rows"]} == {1, 3, 5, 10}
    beside = json.loads((tmp_path / "out.bricks.json").read_text())["measurements"]["0"]
    assert sorted(count for count, _ in beside["one"]["1"].values()) == [1, 1]
    assert "No module named 'none'" in kept["none"]["failure"]
    with mock.patch.object(bricks, "built", side_effect=AssertionError("built again")):
        bricks.measure(["one", "none"], 0, options, 60.0)
    bricks.finish(options)
    finished = json.loads(options.output.read_text())
    assert finished["pool"][0]["unique_share"] == 1.0
    assert finished["summary"]["models"] == 1


def test_a_model_that_ends_its_process_is_left_out(tmp_path: Path) -> None:
    """The group is taken apart, the model that ends its process is named, and the others go on; a
    second run starts nothing.
    """
    options = options_in(tmp_path)
    started = []

    def apart(names: list[str], number: int, _left: float) -> int:
        started.append(list(names))
        if "crashes" in names:
            return -9
        kept = bricks._read(options.output)
        done = kept["measurements"].setdefault(str(number), {})
        done |= measurement(**{name: rows(sum=1.0) for name in names})
        bricks._write(options.output, kept)
        return 0

    with mock.patch.object(bricks, "run_apart", apart):
        assert bricks.measured(["good", "crashes", "other"], options)
        assert started == [["good", "crashes"], ["good"], ["crashes"], ["other"]]
        started.clear()
        assert bricks.measured(["good", "crashes", "other"], options)
    assert not started
    kept = json.loads(options.output.read_text())["measurements"]["0"]
    assert kept["crashes"]["failure"] == "its process ended with -9"
    assert kept["good"]["rows"]


def test_a_run_without_time_left_says_so_and_measures_nothing(tmp_path: Path) -> None:
    """The budget of the next run is its own."""
    options = options_in(tmp_path)
    options.budget_s = 1.0
    with mock.patch.object(bricks, "run_apart", side_effect=AssertionError("started")):
        assert not bricks.measured(["one"], options)


def pooled(measured_ms: float, **times: tuple[int, float]) -> dict[str, Any]:
    """A model whose bricks are each there so often and take so many ns."""
    return {
        "rows": [{"measured_ms": measured_ms}],
        "bricks": {"1": {name: list(each) for name, each in times.items()}},
    }


def test_the_bricks_of_a_pool_are_run_once() -> None:
    """Two models of 10 ms with bricks of 2 + 6 + 4 ms: 20 ms against 12."""
    models = {
        "a": pooled(10.0, common=(2, 2e6), own=(1, 6e6)),
        "b": pooled(10.0, common=(3, 3e6), other=(1, 4e6)),
    }
    (found,) = bricks_summary.pool_rows({"0": models})
    assert found["bricks"] == 7
    assert found["unique_share"] == pytest.approx(3 / 7)
    assert found["speedup"] == pytest.approx(20 / 12)


def test_a_model_is_constructed_from_what_others_measured() -> None:
    """Of `a`, the common brick counts with 3 ms, as `b` has it: 2 x 3 + 6 = 12 of 10 ms, half of it
    from `b`.
    """
    models = {
        "a": pooled(10.0, common=(2, 2e6), own=(1, 6e6)),
        "b": pooled(10.0, common=(3, 3e6), other=(1, 4e6)),
    }
    found = bricks_summary.leave_one_out(models, 1)
    assert found["a"] == pytest.approx({"normalised": 1.2, "shared": 0.5, "own_share": 0.5})
    assert found["b"]["normalised"] == pytest.approx(1.0)


def test_models_that_tracing_changes_are_told_apart() -> None:
    """`b` is named, and the mean of the rest is that of `a`."""
    models = measurement(a=rows(sum=1.1), b=rows(sum=2.0))
    models["b"]["notes"] = ["b: its bricks are of 1 where: tracing changes what the model does"]
    found = bricks_summary.summary({"0": models})
    assert found["other_programs"] == ["b"]
    assert found["geometric_mean_of_the_rest"]["G = 1, sum"] == pytest.approx(1.1)
