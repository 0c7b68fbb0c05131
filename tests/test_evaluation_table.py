"""The table of the paper's Table 2 from a database of evaluations: each number where it belongs."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import evaluation_page
import evaluation_table as benchmark
import numpy as np
import pandas as pd
import pytest
from evaluation_models import Asked, asked
from evaluation_paper import ROWS
from evaluation_rows import newest, table
from test_evaluation_metrics import outcome_of, simulated, sweep_of
from vision_models import mobilenet_v1

from xsp.database.store import Store
from xsp.evaluation.manifest.reading import manifest_of
from xsp.evaluation.records.evaluation import Evaluation
from xsp.evaluation.records.writing import write
from xsp.evaluation.scenarios.scenario import Outcome

OPTIONS = argparse.Namespace(
    size=32,
    device="cpu",
    batch_sizes=[1, 2, 4],
    queries=1000,
    poisson_queries=1000,
    poisson_percentile=99.0,
    iterations=5,
    time_limit_s=600.0,
    samples=None,
    together=0,
    ready_limit_s=600.0,
    scenarios=["single_stream", "batched", "server"],
    again=False,
    load=0.5,
)
(MODEL,) = asked(["vision_models:alexnet_like"], 32)


def kept(
    store: Store,
    id_: str,
    predictor: str,
    outcome: Outcome,
    measured_at: float = 1.0,
    model: Asked = MODEL,
    options: argparse.Namespace = OPTIONS,
) -> None:
    """Write an evaluation of a small model with this outcome."""
    content = benchmark.content(model, options, predictor)
    content["scenario"] = benchmark.settings(outcome.scenario, options, alone_ms=10.0)
    manifest = manifest_of(json.dumps(content).encode(), "a test")
    system = {"cpu": "a processor"}
    found = Evaluation(
        id_, manifest, system, predictor, "2.0", outcome, (), (), measured_at, ("a doubt",)
    )
    write(store, found, {})


def single_stream(took_ms: float) -> Outcome:
    took_ns = np.full(1000, round(1e6 * took_ms))
    begin = np.concatenate([[0], np.cumsum(took_ns)[:-1]])
    found = outcome_of("single_stream", begin, begin + took_ns, np.ones(1000, dtype=np.int64))
    return replace(found, details={"weights_bytes": 2_200_000})


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
    found = table(newest(store)).set_index("predictor")
    store.close()
    torch, onnx = found.loc["torch"], found.loc["onnxruntime"]
    assert (torch["online_tm_ms"], torch["online_p90_ms"]) == (2.5, 2.5)
    assert torch["optimal_batch"] == 2
    assert torch["most_inputs_per_s"] == pytest.approx(4000 / 4.3)
    assert torch["poisson_per_s"] == pytest.approx(50, rel=0.05)
    assert torch["poisson_p90_ms"] >= 10
    assert torch["doubtful"] == "single_stream, batched, server"
    assert torch["weights_mb"] == pytest.approx(2.2)
    assert onnx["online_tm_ms"] == 1.25
    assert np.isnan(onnx["optimal_batch"])
    text = benchmark.printed(found.reset_index(), markdown=True)
    assert "| onnxruntime |" in text
    assert "| – |" in text
    assert "paper" not in text


def test_the_page_says_in_words_what_the_rows_show(tmp_path: Path) -> None:
    """Counts, what early stopping states, how runtimes compare and which test is not valid are
    computed from the rows.
    """
    with Store(tmp_path / "database.sqlite") as store:
        for number, took_ms in enumerate((1.0, 2.0, 4.0)):
            (model,) = asked([f"vision_models:model_{number}"], 32)
            kept(store, f"a{number}", "torch", single_stream(took_ms), model=model)
            kept(store, f"b{number}", "torch-compile", single_stream(took_ms / 2), model=model)
        late = replace(
            simulated(50.0, 5000, seed=1),
            settings={"percentile": 99.0},
            valid=False,
            reasons=("p99 is over",),
        )
        kept(store, "c", "torch", late, model=model)
        found = newest(store)
    rows = table(found)
    said = evaluation_page.summary(found, rows)
    page = evaluation_page.page(json.loads(json.dumps(said)))
    assert "torch on cpu: 3 models, 0 of them under all three scenarios; 3 of 4 tests" in page
    assert "from 1 ms (model_0) to 4 ms (model_2), 2 ms in the median model" in page
    assert "torch-compile is 2 times as fast as torch one input after another" in page
    assert "to 2 for model_0; no slower)." in page
    assert "- model_2 torch cpu, server: p99 is over" in page
    (row,) = rows[(rows["model"] == "model_1") & (rows["predictor"] == "torch")].to_dict("records")
    assert row["online_p90_at_most_ms"] == pytest.approx(2.0)
    assert len(said["rows"]) == 6
    assert said["rows"][0]["poisson_at_most_ms"] is None


def test_the_papers_table_stands_beside_ours(tmp_path: Path) -> None:
    """Each of the paper's 37 rows is there, with the same network on each of our runtimes where it
    was evaluated on a GPU; how they compare is computed from both.
    """
    models = asked(["mobilenet_v1_0.25_128", "vgg16", "resnet18", "alexnet"], 0)
    options = argparse.Namespace(**{**vars(OPTIONS), "device": "cuda"})
    with Store(tmp_path / "database.sqlite") as store:
        for number, model in enumerate(models):
            for at, name, took_ms in ((1.0, "torch", 1.0), (2.0, "torch-compile", 0.5)):
                fast, swept = single_stream(took_ms), sweep_of({1: took_ms, 2: 1.5, 4: 2.0})
                kept(store, f"{number}{at:.0f}1", name, fast, at, model, options)
                kept(store, f"{number}{at:.0f}2", name, swept, at, model, options)
        found = newest(store)
    page = evaluation_page.page(evaluation_page.summary(found, table(found)))
    lines = {line.split(" | ")[0]: line for line in page.splitlines() if line.startswith("| ")}
    assert {f"| {row.name}" for row in ROWS} <= set(lines)
    assert len(ROWS) == 37
    line = "| MobileNet_v1_0.25_128 | 2.28 | 2.46 | 10,708 | 256 | mobilenet_v1_0.25_128 | 1 | 1 |"
    assert lines["| MobileNet_v1_0.25_128"].startswith(line)
    assert "| 0.5 | 0.5 |" in lines["| VGG16"]
    assert lines["| Inception_v4"].count("–") == 9
    assert "torch on cuda answers one input 4.92 times as fast" in page
    assert "(geometric mean of the 3 models that both have; 2.28 for mobilenet" in page


def test_poisson_percentiles_have_their_intervals(tmp_path: Path) -> None:
    """p50 and p90 under Poisson arrivals stand with their intervals and the load; a call's own time
    leaves out what it waited, so it is the server's.
    """
    with Store(tmp_path / "database.sqlite") as store:
        for number in range(3):
            (model,) = asked([f"vision_models:model_{number}"], 32)
            kept(store, f"a{number}", "torch", single_stream(10.0), model=model)
            server = replace(simulated(50.0, 2000, seed=number), settings={"percentile": 99.0})
            kept(store, f"b{number}", "torch", server, model=model)
        found = newest(store)
    rows = table(found)
    for _, row in rows.iterrows():
        assert row["poisson_load"] == pytest.approx(0.5)
        assert row["poisson_call_ms"] == pytest.approx(10.0, rel=0.01)
        for share in ("p50", "p90"):
            low, high = row[f"poisson_{share}_low_ms"], row[f"poisson_{share}_high_ms"]
            assert 10.0 <= low <= row[f"poisson_{share}_ms"] <= high
    page = evaluation_page.page(evaluation_page.summary(found, rows))
    assert "Under Poisson arrivals at 50% of that rate p50 of torch on cpu is" in page
    assert "interval is known of p50: 3 models" in page
    assert "; of p90: 3 models" in page
    assert "takes under these arrivals 1 times as long as online in the median model" in page


def test_the_page_is_the_one_of_the_committed_results() -> None:
    """docs/evaluation-table.md is what the command writes of the results that are kept."""
    root = Path(__file__).parent.parent
    said = json.loads((root / "benchmarks/results/evaluation_table_h200.json").read_text())
    assert evaluation_page.page(said) == (root / "docs/evaluation-table.md").read_text()
    rows = pd.DataFrame(said["rows"])
    whole = rows[["online_tm_ms", "most_inputs_per_s", "poisson_p50_ms"]].notna().all(axis=1)
    models = rows[whole].groupby("predictor")["model"].nunique()
    assert models["torch"] >= 37
    assert models["torch-compile"] >= 37


def test_mobilenets_have_as_many_weights_as_published() -> None:
    """MobileNet v1 with a quarter, half, three quarters and all of the channels has 0.5, 1.3, 2.6
    and 4.2 million (A. Howard et al., MobileNets, 2017, tables 6 and 7).
    """
    made = {width: mobilenet_v1(width) for width in (0.25, 0.5, 0.75, 1.0)}
    millions = {
        width: sum(each.numel() for each in model.parameters()) / 1e6
        for width, model in made.items()
    }
    assert {width: round(count, 1) for width, count in millions.items()} == {
        0.25: 0.5,
        0.5: 1.3,
        0.75: 2.6,
        1.0: 4.2,
    }


def test_an_interrupted_run_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is begun after the minutes are over, and what the database has is not evaluated
    again.
    """
    begun: list[str] = []

    def evaluated(manifest: Any, database: Store, **options: Any) -> Evaluation:
        kind = manifest.scenario.kind
        begun.append(f"{manifest.model.name} {kind}")
        outcome = {
            "single_stream": single_stream(2.0),
            "batched": sweep_of({1: 2.0, 2: 2.2, 4: 4.3}),
            "server": simulated(50.0, 1000, seed=1),
        }[kind]
        found = Evaluation(
            f"{len(begun):016x}", manifest, {}, "torch", "2", outcome, (), (), 1.0, ()
        )
        write(database, found, {})
        return found

    monkeypatch.setattr(benchmark, "evaluate", evaluated)
    names = [f"vision_models:{name}" for name in ("alexnet_like", "resnet_like")]
    asked = argparse.Namespace(
        **vars(OPTIONS), models=names, predictors=["torch"], artifacts=None, labels={}
    )
    with Store(tmp_path / "database.sqlite") as store:
        asked.minutes = 0.0
        benchmark.run(store, asked)
        assert begun == []
        asked.minutes = float("inf")
        kept(store, "f" * 16, "torch", single_stream(2.0))
        benchmark.run(store, asked)
        before = len(begun)
        asked.again, asked.scenarios = True, ["server"]
        benchmark.run(store, asked)
    assert begun[before:] == ["alexnet_like server", "resnet_like server"]
    scenarios = ("single_stream", "batched", "server")
    assert begun[:before] == [
        "alexnet_like batched",
        "alexnet_like server",
        *(f"resnet_like {each}" for each in scenarios),
    ]
