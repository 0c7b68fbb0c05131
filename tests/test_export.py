"""`xsp export` and the tables it writes."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from captures import gpu_profile
from otlp_receivers import http_receiver
from typer.testing import CliRunner

import xsp
from xsp.cli.application import app
from xsp.cli.export import FORMATS

CAPTURES = Path(__file__).parent.parent / "examples" / "captures"


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    """A capture with all levels."""
    return gpu_profile().save(tmp_path / "net.xsp")


def export(*arguments: object) -> str:
    """Run `xsp export` and give what it said; what it raised is raised."""
    done = CliRunner().invoke(app, ["export", *map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def refused(*arguments: object) -> str:
    """The error of an `xsp export` that cannot be."""
    done = CliRunner().invoke(app, ["export", *map(str, arguments)])
    assert isinstance(done.exception, xsp.XspError)
    return str(done.exception)


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_tables_in_a_folder(form: str, capture: Path) -> None:
    """The folder has every table as pandas shows it, and the facts that are no table as JSON."""
    export(capture, "--to", form)
    folder = capture.with_name(f"net_{form}")
    prof = xsp.load(capture)
    read = pd.read_csv if form == "csv" else pd.read_parquet
    for name, table in (
        ("tree", prof.tree()),
        ("spans", prof.spans),
        ("kernels", prof.table("kernels")),
    ):
        found = read(folder / f"{name}.{form}")
        assert found.columns.tolist() == table.columns.tolist()
        numbers = [column for column in table if pd.api.types.is_numeric_dtype(table[column])]
        pd.testing.assert_frame_equal(found[numbers], table[numbers], check_dtype=False)
        assert found["name"].astype(str).tolist() == table["name"].astype(str).tolist()
    facts = json.loads((folder / "profile.json").read_text(encoding="utf-8"))
    assert facts["latency_ms"] == prof.latency_ms
    assert facts["environment"] == prof.environment
    assert {path.stem for path in folder.iterdir()} >= {
        "runs",
        "layers",
        "library_calls",
        "api_calls",
        "overhead",
    }


def test_a_folder_with_other_files_is_not_written_to(capture: Path, tmp_path: Path) -> None:
    """Tables replace older tables, and nothing else."""
    folder = tmp_path / "out"
    export(capture, "--to", "csv", "-o", folder)
    export(capture, "--to", "csv", "-o", folder)
    (folder / "notes.txt").write_text("mine")
    assert "has other files in it (notes.txt)" in refused(capture, "--to", "csv", "-o", folder)


@pytest.mark.parametrize(("form", "name"), [("perfetto", "net.pftrace"), ("chrome", "net.json.gz")])
def test_traces_are_those_of_the_profile(
    form: str, name: str, capture: Path, tmp_path: Path
) -> None:
    """The command writes what the method writes, with the run and rung that were asked for."""
    assert name in export(capture, "--to", form)
    prof = xsp.load(capture)
    write = prof.to_perfetto if form == "perfetto" else prof.to_chrome
    assert (tmp_path / name).read_bytes() == write(tmp_path / f"own-{name}").read_bytes()
    chosen = tmp_path / f"chosen-{name}"
    export(capture, "--to", form, "--rung", "M/L", "-o", chosen)
    assert chosen.read_bytes() == write(tmp_path / f"own-{name}", rung="M/L").read_bytes()
    assert chosen.read_bytes() != (tmp_path / name).read_bytes()


def test_what_cannot_be_is_refused(capture: Path) -> None:
    """Unknown formats, choices that a format does not have, and files that exist give an error with
    a way out.
    """
    assert f"the formats are {', '.join(FORMATS)}" in refused(capture, "--to", "pdf")
    assert "csv has all runs" in refused(capture, "--to", "csv", "--run", 1)
    assert "leave them out" in refused(
        capture, "--to", "csv", "--endpoint", "http://localhost:4318"
    )
    assert "writes no file" in refused(capture, "--to", "otlp", "--output", capture.with_name("x"))
    export(capture, "--to", "perfetto")
    assert "--force" in refused(capture, "--to", "perfetto")
    export(capture, "--to", "perfetto", "--force")
    assert "needs neither" in CliRunner().invoke(app, ["export", "--help"]).output.lower()


def test_spans_are_sent_to_a_receiver(capture: Path) -> None:
    """`--to otlp` sends the spans of one run, as many as it says."""
    with http_receiver() as receiver:
        said = export(
            capture, "--to", "otlp", "--endpoint", receiver.endpoint, "--protocol", "http/protobuf"
        )
    assert said == f"{len(receiver.span_ids)} spans sent\n"
    spans = xsp.load(capture).spans
    assert len(receiver.span_ids) >= (spans["run"] == spans["run"].max()).sum()


def test_a_receiver_is_not_flooded(capture: Path) -> None:
    """`--levels` and `--min-duration-us` send what the method's arguments would."""
    with http_receiver() as receiver:
        said = export(
            capture,
            "--to",
            "otlp",
            "--endpoint",
            receiver.endpoint,
            "--levels",
            "M/L",
            "--min-duration-us",
            2.5,
        )
        few = len(receiver.span_ids)
        assert (
            xsp.load(capture).to_otlp(receiver.endpoint, levels="M/L", min_duration_ns=2500) == few
        )
        assert few < xsp.load(capture).to_otlp(receiver.endpoint)
    assert said == f"{few} spans sent\n"
    assert "leave them out" in refused(capture, "--to", "csv", "--levels", "M/L")
