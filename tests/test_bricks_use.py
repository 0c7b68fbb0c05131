"""Bricks as people use them: the command, the function, pages, packages, machines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pandas as pd
import pytest
import torch
from captures import gpu_profile
from small_models import Convolutional, HandWritten, Transformer, ready
from torch import nn

import xsp
from xsp.brickwork import brick_tables
from xsp.brickwork.advice import machines_for
from xsp.brickwork.result import Bricks
from xsp.cli import main
from xsp.database.entry import Entry, Machine
from xsp.database.store import Store
from xsp.errors import GraphError, XspError
from xsp.graphs.from_export import graph_of

ROOT = Path(__file__).parent.parent


class Sparse(nn.Module):
    """Its middle is a sparse tensor."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = x.relu().to_sparse().sin().to_dense()
        return output


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bricks") / "layers.sqlite"


@pytest.fixture(scope="module")
def found(place: Path) -> Bricks:
    return xsp.bricks(
        ready(HandWritten),
        ready(Transformer),
        (Sparse().eval(), torch.randn(3, 3)),
        names=["hand", "transformer", "sparse"],
        database=place,
        granularity=(1, 3),
        statistics="paper",
        threads=1,
        progress=False,
    )


def test_models_are_measured_and_constructed(found: Bricks) -> None:
    """A row for each model, granularity and rule; normalised is their ratio, with an interval."""
    table = found.models[found.models["rule"] == "sum"]
    assert list(zip(table["model"], table["granularity"], strict=True)) == [
        ("hand", 1),
        ("hand", 3),
        ("transformer", 1),
        ("transformer", 3),
    ]
    assert (table["covered"] == 1).all()
    ratio = table["constructed_ms"] / table["measured_ms"]
    pd.testing.assert_series_equal(table["normalised"], ratio, check_names=False)
    assert (table["normalised_ci"] > 0).all()


def test_a_model_that_cannot_be_taken_apart_does_not_stop_the_others(found: Bricks) -> None:
    """It is named with the reason and the way out."""
    assert list(found.failures) == ["sparse"]
    assert "dense tensors only" in found.failures["sparse"]


def test_the_pool_is_run_once_for_all_models(found: Bricks) -> None:
    """Speed-up: latencies of the models over those of their unique bricks, each once."""
    row = found.pools.iloc[0]
    table = found.bricks(1)
    assert (row["bricks"], row["unique"]) == (17, len(table))
    assert table["occurrences"].sum() == 17
    assert row["bricks_ms"] == pytest.approx(table["time_us"].sum() / 1e3)
    assert row["speedup"] == pytest.approx(row["models_ms"] / row["bricks_ms"])


def test_leaving_a_model_out_tells_what_the_others_have(found: Bricks) -> None:
    """Nothing of the two models is shared, so everything of each is its own."""
    table = found.leave_one_out(1)
    assert (table["shared"] == 0).all()
    assert found.similarity(1).loc["hand", "transformer"] == 0
    twice = [*found.subjects, found.subjects[0]]
    shared = brick_tables.leave_one_out(twice, found.records, 1).set_index("model")["shared"]
    assert list(shared["hand"]) == [1.0, 1.0]


def test_a_model_that_never_ran_is_constructed_from_the_database(
    found: Bricks, place: Path
) -> None:
    """Without running anything, and as a graph without weights it lacks the bricks with views."""
    again = xsp.bricks(
        ready(HandWritten),
        graph_of(*ready(Convolutional)),
        names=["new", "other"],
        database=place,
        run=False,
        threads=1,
        whole=False,
    )
    table = again.models[again.models["rule"] == "sum"].set_index("model")
    known = found.models.iloc[0]
    assert table.loc["new", "constructed_ms"] == pytest.approx(known["constructed_ms"])
    assert float(str(table.loc["other", "covered"])) < 1
    assert table["constructed_ms"].isna().tolist() == [False, True]
    assert table["measured_ms"].isna().all()


def test_which_machine_for_this_model(found: Bricks, tmp_path: Path) -> None:
    """From a database of two machines the faster one comes first; one that lacks bricks has no
    latency.
    """
    subject = found.subjects[0]
    fast, poor = Machine({"cpu": "fast"}), Machine({"cpu": "poor"})
    digests = {brick.layer.digest: brick.layer for brick in subject.decompositions[1].bricks}
    with Store(tmp_path / "layers.sqlite") as store:
        for record in found.records.values():
            store.put([record.entry(found.machine)])
        for layer in digests.values():
            provenance = {"samples_ns": [1.0] * 9, "complete": True}
            key = layer, layer.dtype, subject.algorithm, "model", 1.0, 0.0, 9
            store.put([Entry(fast, *key, provenance=provenance)])
        store.put([Entry(poor, *key, provenance=provenance)])
        table = machines_for(store, [subject])
    first = table[table["granularity"] == 1]
    assert [each.split(" (")[0] for each in first["machine"]] == [
        "fast",
        found.machine.name,
        "poor",
    ]
    assert first["constructed_ms"].isna().tolist() == [False, False, True]
    assert first["constructed_ms"].iloc[0] == pytest.approx(
        len(subject.decompositions[1].bricks) / 1e6
    )


def test_a_package_runs_with_torch_only(found: Bricks, tmp_path: Path) -> None:
    """Without xsp on the path it builds every brick, times it and adds up both models; it has no
    name of a model, of a module or of a weight.
    """
    folder = found.export(tmp_path / "package")
    block = "import sys; sys.modules['xsp'] = None; sys.argv = ['run_bricks.py', *sys.argv[1:]]; "
    run = (
        "import runpy; sys.path.insert(0, ''); runpy.run_path('run_bricks.py', run_name='__main__')"
    )
    command = [sys.executable, "-c", block + run, "--rounds", "10", "--output", "times.json"]
    environment = {key: each for key, each in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads((folder / "times.json").read_text())["models"]
    assert sorted((each["model"], each["granularity"]) for each in rows) == [
        (0, 1),
        (0, 3),
        (1, 1),
        (1, 3),
    ]
    assert all(each["latency_ms"] > each["half_width_ms"] > 0 for each in rows)
    text = (folder / "bricks.json").read_text()
    for operator in ("aten.embedding", "aten._transformer_encoder_layer_fwd"):
        text = text.replace(operator, "")
    assert not any(word in text for word in ("encoder", "qkv", "embed", "hand", "transformer"))
    with pytest.raises(XspError, match="not an empty folder"):
        found.export(folder)


def test_a_page_has_tables_and_figures(found: Bricks, tmp_path: Path) -> None:
    """A page of its own, and the same as a section of a profile's report."""
    page = found.to_html(tmp_path / "bricks.html").read_text(encoding="utf-8")
    for key in ("bricks-models", "bricks-pool", "bricks-each"):
        assert f'id="{key}"' in page
    for key in ("bricks-normalised", "bricks-speedup", "bricks-similarity"):
        assert f'id="figure-{key}"' in page
    written = gpu_profile().to_html(tmp_path / "report.html", more=found.sections())
    report = written.read_text(encoding="utf-8")
    assert '<section id="bricks"' in report
    assert '<section id="summary"' in report


def test_other_granularities_are_refused(found: Bricks) -> None:
    """The message says which there are."""
    with pytest.raises(GraphError, match=r"not taken apart at granularity 7 but at \[1, 3\]"):
        found.bricks(7)


def test_options_that_do_not_exist_are_named() -> None:
    """Misspelt options list those that there are."""
    with pytest.raises(XspError, match=r"the options of xsp\.bricks are granularity"):
        xsp.bricks(ready(HandWritten), granularities=(1,))
    with pytest.raises(XspError, match="1 names for 2 targets"):
        xsp.bricks(ready(HandWritten), ready(HandWritten), names=["one"])


TARGETS = """
import torch
from torch import nn

def chain():
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)).eval(), torch.randn(2, 8)

def longer():
    layers = nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.Tanh()
    return nn.Sequential(*layers).eval(), torch.randn(2, 8)
"""


def run(*arguments: str) -> int:
    """The command's exit code."""
    with (
        mock.patch.object(sys, "argv", ["xsp", "bricks", *arguments]),
        pytest.raises(SystemExit) as ended,
    ):
        main()
    return int(ended.value.code or 0)


def test_the_command_measures_prints_and_writes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two targets and one that does not exist: the two are measured, the third is named, and the
    exit code says that something failed.
    """
    source = tmp_path / "targets.py"
    source.write_text(TARGETS)
    written = tmp_path / "bricks.json"
    arguments = [f"{source}:chain", f"{source}:longer", f"{source}:none", "--granularity", "1,3"]
    arguments += ["--database", str(tmp_path / "layers.sqlite"), "--budget-s", "2", "--quiet"]
    assert run(*arguments, "--machines", "-o", str(written)) == 1
    out, err = capsys.readouterr()
    assert "has no function 'none'" in err
    assert "unique bricks at granularity 1" in out
    assert "on every machine of the database" in out
    rows = json.loads(written.read_text())["models"]
    run(*arguments, "--json")
    assert json.loads(capsys.readouterr().out)["models"]
    assert {(each["granularity"], each["rule"]) for each in rows} >= {(1, "sum"), (3, "sum")}
    assert all(each["constructed_ms"] > 0 for each in rows)


def test_the_command_refuses_what_is_no_granularity(capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything is imported or measured."""
    source = str(ROOT / "examples" / "captures" / "h100_resnet50.xsp")
    assert run(source, "--granularity", "1,x") == 2
    assert "such as 1,3,5,10" in capsys.readouterr().err
