"""The table of the paper's Table 2 from a database of evaluations: each number where it belongs."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import evaluation_table as benchmark
import numpy as np
import pytest
from test_evaluation_metrics import outcome_of, simulated, sweep_of

from xsp.database.store import Store
from xsp.evaluation.manifest.reading import manifest_of
from xsp.evaluation.records.evaluation import Evaluation
from xsp.evaluation.records.writing import write
from xsp.evaluation.scenarios.scenario import Outcome

OPTIONS = argparse.Namespace(
    size=32, device="cpu", batch_sizes=[1, 2, 4], queries=1000, iterations=5, time_limit_s=600.0
)


def kept(store: Store, id_: str, predictor: str, outcome: Outcome, measured_at: float) -> None:
    """Write an evaluation of a small model with this outcome."""
    content = benchmark.content("vision_models:alexnet_like", OPTIONS, predictor)
    content["scenario"] = benchmark.settings(outcome.scenario, OPTIONS, alone_ms=10.0)
    manifest = manifest_of(json.dumps(content).encode(), "a test")
    system = {"cpu": "a processor"}
    found = Evaluation(
        id_, manifest, system, predictor, "2.0", outcome, (), (), measured_at, ("a doubt",)
    )
    write(store, found, {})


def single_stream(took_ms: float) -> Outcome:
    took_ns = np.full(1000, round(1e6 * took_ms))
    begin = np.concatenate([[0], np.cumsum(took_ns)[:-1]])
    return outcome_of("single_stream", begin, begin + took_ns, np.ones(1000, dtype=np.int64))


def test_a_row_has_the_newest_evaluation_of_each_scenario(tmp_path: Path) -> None:
    """Latencies come from the online test, throughput and batch from the sweep, percentiles under
    Poisson arrivals from the server test; what was not evaluated is a dash.
    """
    store = Store(tmp_path / "database.sqlite")
    kept(store, "1" * 16, "torch", single_stream(99.0), 1.0)
    kept(store, "2" * 16, "torch", single_stream(2.5), 2.0)
    kept(store, "3" * 16, "torch", sweep_of({1: 2.0, 2: 2.2, 4: 4.3}), 3.0)
    kept(store, "4" * 16, "torch", simulated(50.0, 5000, seed=1), 4.0)
    kept(store, "5" * 16, "onnxruntime", single_stream(1.25), 5.0)
    found = benchmark.table(store).set_index("predictor")
    store.close()
    torch, onnx = found.loc["torch"], found.loc["onnxruntime"]
    assert (torch["online_tm_ms"], torch["online_p90_ms"]) == (2.5, 2.5)
    assert torch["optimal_batch"] == 2
    assert torch["most_inputs_per_s"] == pytest.approx(4000 / 4.3)
    assert torch["poisson_per_s"] == pytest.approx(50, rel=0.05)
    assert torch["poisson_p90_ms"] >= 10
    assert torch["doubtful"] == "single_stream, batched, server"
    assert torch["weights_mb"] == pytest.approx(2.2, abs=0.1)
    assert onnx["online_tm_ms"] == 1.25
    assert np.isnan(onnx["optimal_batch"])
    text = benchmark.printed(found.reset_index(), markdown=True)
    assert "| onnxruntime |" in text
    assert "| – |" in text
    assert "paper" not in text
