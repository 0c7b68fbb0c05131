"""benchmarks/bricks.py: how a rule is chosen and judged, and runs that go on where they were."""

from __future__ import annotations

import argparse
import json
import math
import signal
from pathlib import Path
from typing import Any
from unittest import mock

import bricks
import bricks_files
import bricks_page
import bricks_pools
import bricks_summary
import bricks_time
import pytest
import time_limit
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


def test_a_lucky_split_is_seen_beside_other_splits() -> None:
    """Two models at 1 and two at 1.3: the stated halves are equal, but of three ways to pair four
    models one puts unlike ones apart, and then a half of them says 1 and the other 1.3.
    """
    one = measurement(a=rows(sum=1.0), b=rows(sum=1.3), c=rows(sum=1.3), d=rows(sum=1.0))
    found = bricks_summary.summary({"0": one})
    assert found["judged_on_the_rest"] == pytest.approx(math.sqrt(1.3))
    halves = found["random_halves"]
    assert halves["within_5_percent"] == pytest.approx(1 / 6, abs=0.05)
    low, _, middle, _, high = halves["percentiles_5_25_50_75_95"]
    assert (low, middle, high) == pytest.approx((1.0, math.sqrt(1.3), 1.3), abs=1e-3)
    assert halves["chosen"] == {"G = 1, sum": 1.0}


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
        modules=False,
        bracket=False,
        threads=1,
        clock="wall",
        group_s=0.0,
        model_s=0.0,
        shared=False,
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


def test_measurements_made_apart_become_one_file(tmp_path: Path) -> None:
    """Two numbers of one model: the median counts, and the bricks of both lie beside."""
    for number, ratio in (("0", 1.0), ("1", 1.2)):
        model = {**measurement(a=rows(sum=ratio), b=rows(sum=1.0))}
        own = {"measurements": {number: model}, "rounds": 5 + int(number)}
        bricks_files.write(tmp_path / f"{number}.json", own)
        bricks_files.write(tmp_path / f"{number}.bricks.json", {"measurements": {number: {}}})
    output = tmp_path / "all.json"
    bricks_files.merge([tmp_path / "0.json", tmp_path / "1.json"], output)
    kept = bricks_files.read(output)
    assert kept["rounds"] == 5
    found = bricks_summary.summary(kept["measurements"])
    assert found["measurements"] == 2
    assert found["geometric_mean"]["G = 1, sum"] == pytest.approx(math.sqrt(1.1))
    assert set(bricks_files.read(tmp_path / "all.bricks.json")["measurements"]) == {"0", "1"}


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
        kept = bricks_files.read(options.output)
        done = kept["measurements"].setdefault(str(number), {})
        done |= measurement(**{name: rows(sum=1.0) for name in names})
        bricks_files.write(options.output, kept)
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


def test_a_model_that_raises_is_a_row(tmp_path: Path) -> None:
    """With what it raised; in the summary it has no latency, and no other model loses its own."""
    options = options_in(tmp_path)
    with mock.patch.object(bricks, "_found", side_effect=RuntimeError("out of memory")):
        bricks.measure(["own/lstm"], 0, options, 60.0)
    kept = json.loads(options.output.read_text())["measurements"]
    assert kept["0"]["own/lstm"]["failure"] == "RuntimeError: out of memory"
    kept["0"] |= measurement(a=rows(sum=1.0), b=rows(sum=1.0))
    bricks_files.fail({"measurements": kept}, ["own/lstm", "a"], "0", "RuntimeError: out of memory")
    found = bricks_summary.summary(kept)
    assert found["failures"] == {"own/lstm": "RuntimeError: out of memory"}
    assert found["models"] == 2


def test_models_share_the_time_that_is_left() -> None:
    """Equal shares, less what earlier models took around their rounds, a second at least."""
    timed = {"0": {"a": {"seconds": 9.0, "rounds_s": 5.0}, "b": {"seconds": 1.0, "rounds_s": 5.0}}}
    around = bricks_time.around_s(timed)
    assert around == pytest.approx(4.0)  # of `b`, which was known sooner, nothing is learnt
    assert bricks_time.rounds_s(100.0, 10, around, math.inf) == pytest.approx(6.0)
    assert bricks_time.rounds_s(100.0, 10, around, 2.0) == pytest.approx(2.0)
    assert bricks_time.rounds_s(10.0, 10, around, math.inf) == bricks_time.LEAST_S
    assert bricks_time.rounds_s(math.inf, 10, around, math.inf) is None


def test_a_model_that_takes_too_long_is_ended() -> None:
    """The block raises, and the handler that was there before is there again."""
    before = signal.getsignal(signal.SIGALRM)

    def endless() -> None:
        with time_limit.limited(0.01):
            while True:
                pass

    with pytest.raises(TimeoutError, match="took longer than"):
        endless()
    assert signal.getsignal(signal.SIGALRM) is before


def test_what_was_never_measured_comes_first(tmp_path: Path) -> None:
    """A run that goes on refines what it has when all models have a latency."""
    options = options_in(tmp_path)
    unfinished = {"a": {"rows": rows(sum=1.0), "complete": False}}
    bricks_files.write(options.output, {"measurements": {"0": unfinished}})
    todo = bricks_files.untried_first([(0, ["a"]), (0, ["b"])], options)
    assert todo == [(0, ["b"]), (0, ["a"])]


def test_a_pool_of_fifty_has_five_tasks() -> None:
    """With some more, since not every model can be run everywhere."""
    names = bricks_pools.pool("fifty")
    assert len(set(names)) == len(names) >= 50
    assert len({bricks_pools.task(name) for name in names}) >= 5


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
    found = bricks_summary.leave_one_out(models, "1")
    assert found["a"] == pytest.approx(
        {"normalised": 1.2, "over_own": 1.2, "shared": 0.5, "own_share": 0.5}
    )
    assert found["b"]["normalised"] == pytest.approx(1.0)


def test_models_that_tracing_changes_are_told_apart() -> None:
    """`b` is named, the mean of the rest is that of `a`, and so are its task's and the pool's."""
    models = measurement(a=rows(sum=1.1), b=rows(sum=2.0))
    for each in models.values():
        each |= {"task": "images", "bricks": {"1": {"own": [1, 6e6]}}}
        each["rows"][0] |= {"measured_ms": 10.0}
    models["b"]["notes"] = ["b: its bricks are of 1 where: tracing changes what the model does"]
    found = bricks_summary.summary({"0": models})
    assert found["other_programs"] == ["b"]
    assert found["geometric_mean_of_the_rest"]["G = 1, sum"] == pytest.approx(1.1)
    assert found["by_task"] == {"images": pytest.approx(1.1)}
    (pool,) = bricks_summary.pool_rows({"0": models})
    assert (pool["models"], pool["speedup"]) == (1, pytest.approx(10 / 6))


def test_a_difference_is_told_where_it_is() -> None:
    """Of 25 % that the bricks take longer than a call, its Python is -20 % and the bricks are 56 %
    over the graph: 4.5 us for each of 100.
    """
    row = {
        "granularity": 1,
        "rule": "sum",
        "normalised": 1.25,
        "measured_ms": 1.0,
        "graph_ms": 0.8,
        "constructed_ms": 1.25,
        "bricks": 100,
    }
    found = bricks_summary.summary({"0": measurement(a=[row], b=rows(sum=1.0))})
    assert found["reasons"]["a"] == (
        "Python between its operators is 20% of a call; "
        "its 100 bricks take 56% longer than its graph, 4.5 us each"
    )


def test_a_difference_of_modules_is_told_beside_operators() -> None:
    """What bricks of operators give says how much of it the Python in modules was; a ratio that is
    hardly known says so.
    """
    row = {"granularity": 1, "measured_ms": 1.0, "bricks": 9, "normalised_ci": 0.2}
    both = [
        {**row, "rule": "sum", "normalised": 0.7},
        {**row, "rule": "modules, sum", "normalised": 0.85},
    ]
    found = bricks_summary.summary({"0": measurement(a=both)})
    assert found["chosen"] == "G = 1, modules, sum"
    assert found["reasons"]["a"] == "known to 0.20 only; bricks of operators give 0.70"


def test_a_page_has_the_figures_of_a_file(tmp_path: Path) -> None:
    """Between its marks: means, tasks, the pool beside the paper's, and each model."""
    page, output = tmp_path / "page.md", tmp_path / "some.json"
    page.write_text("before\n<!-- figures of some -->\nold\n<!-- end of figures -->\nafter\n")
    models = {
        name: {**pooled(10.0, own=(1, 6e6)), "complete": True, "task": task}
        for name, task in (("a", "images"), ("b", "language"))
    }
    for ratio, each in zip((1.0, 1.2), models.values(), strict=True):
        each["rows"] = [{**rows(sum=ratio)[0], "measured_ms": 10.0}]
        each["cpu_share"] = 0.8 + ratio / 10
    kept = {
        "measurements": {"0": models},
        "machine": {"cpu": "some CPU", "torch": "2.0"},
        "clock": "wall",
        "rounds": 7,
        "summary": bricks_summary.summary({"0": models}),
        "pool": bricks_summary.pool_rows({"0": models}),
    }
    bricks_files.write(output, kept)
    bricks_page.write_page(output, page)
    text = page.read_text()
    assert "old" not in text
    assert text.startswith("before")
    assert text.endswith("after\n")
    assert "2 models on some CPU" in text
    assert "By task: images 1.000, language 1.200." in text
    assert "| 1 | 2 | 2 | 1 | 50.0% | 3.33 | 1.095 |" in text
    assert "| 1, the paper" in text
    assert "- b 1.20: " in text
    assert "had its CPU for 91% of the time, and for 90% at least" in text
    assert "Were the halves drawn at random (1000 times)" in text
