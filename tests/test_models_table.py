"""docs/models.md is what its captures say."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import models
import models_table
import pytest
from captures import gpu_capture

import xsp
from xsp.sweeping.result import Sweep

ROOT = Path(__file__).parent.parent
COMMITTED = ROOT / "examples" / "captures" / "models"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as benchmarks/models.py leaves it: two models and a sweep."""
    for name in ("resnet50", "gpt2"):
        xsp.Profile(gpu_capture()).save(tmp_path / f"{name}.xsp")
    profiles: dict[int | float | str, xsp.Profile] = {}
    for size, latency_ns in ((1, 1_000_000), (2, 1_950_000)):
        capture = gpu_capture()
        capture.tables["runs"]["latency_ns"] = latency_ns
        profiles[size] = xsp.Profile(capture)
    Sweep("batch_size", profiles, {4: "OutOfMemoryError"}).save(tmp_path / "resnet50_by_batch")
    (tmp_path / "models.json").write_text(json.dumps({"failures": {"swin_t": "RuntimeError: no"}}))
    return tmp_path


def test_page_has_every_capture_and_every_failure(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From captures to page: a line per model and swept value, findings put before, failures at the
    end.
    """
    monkeypatch.setattr(sys, "argv", ["models.py", "--output", str(folder), "--analyse-only"])
    models.main()
    (folder / "findings.md").write_text("## Findings\n\nWritten by hand.\n")
    page = models_table.page(folder)
    assert page.startswith("# 2 models")
    assert page.index("Written by hand") < page.index("## Latency")
    assert "| resnet50 | CNN | torchvision | fp16 | 8 | 1.00 ± 0.00 | 8,000 | 3 | 5 | 56% |" in page
    assert (
        "Optimal batch size by the paper's rule: 1: doubling 1 to 2 changes throughput by +2.6%"
        in page
    )
    assert "- swin_t was not measured: RuntimeError: no" in page
    assert set(json.loads((folder / "models.json").read_text())["rows"]["gpt2"]["lines"]) == set(
        models.ANALYSES
    )


@pytest.mark.skipif(
    not (COMMITTED / "models.json").exists(), reason="no captures of models are committed"
)
class TestCommitted:
    """The page and the rows in the repository."""

    def test_page_is_the_one_that_its_rows_give(self) -> None:
        """docs/models.md has not been edited by hand, and is not older than the rows."""
        assert (ROOT / "docs" / "models.md").read_text(encoding="utf-8") == models_table.page(
            COMMITTED
        )

    def test_rows_are_those_of_the_captures(self) -> None:
        """There is a row for each capture, and the smallest capture analysed anew gives its row."""
        rows = json.loads((COMMITTED / "models.json").read_text())["rows"]
        found = models.captures(COMMITTED)
        assert set(rows) == set(found)
        name = min(found, key=lambda each: found[each].stat().st_size)
        entry = models.SWEPT if "value" in rows[name] else name
        anew = models.row_of(name, found[name], entry)
        texts, numbers = (
            {
                key: value
                for key, value in anew["summary"].items()
                if isinstance(value, float) is number
            }
            for number in (False, True)
        )
        kept = rows[name]["summary"]
        assert texts == {key: kept[key] for key in texts}
        assert numbers == pytest.approx({key: kept[key] for key in numbers}, rel=1e-6)
        assert set(kept) == {*texts, *numbers}
        assert anew["lines"] == rows[name]["lines"]

    def test_every_analysis_gave_a_table_for_every_model(self) -> None:
        """No analysis failed on a committed capture."""
        rows = json.loads((COMMITTED / "models.json").read_text())["rows"]
        assert {name: row["failures"] for name, row in rows.items() if row["failures"]} == {}
