"""benchmarks/kineto.py, which runs on a GPU: what of it needs none, on bundled captures."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import kineto
import pytest

import xsp

ROOT = Path(__file__).parent.parent
CAPTURES = ROOT / "examples" / "captures"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[xsp.Profile, Path]:
    """A training step on an H100, and its last run as a trace in torch.profiler's format."""
    prof = xsp.load(CAPTURES / "h100_train_step.xsp")
    return prof, prof.to_chrome(tmp_path_factory.mktemp("kineto") / "trace.json.gz")


def test_totals_of_a_trace_are_those_of_its_run(written: tuple[xsp.Profile, Path]) -> None:
    """A trace has the kernel total of the run that it shows, to the ns, and its ratio is to the
    mean of all runs.
    """
    prof, path = written
    theirs = xsp.from_kineto(path)
    totals = kineto.kernel_totals(prof)
    assert kineto.kernel_totals(theirs).tolist() == totals[-1:].tolist()
    turn = kineto.compared(theirs, prof)
    assert turn["ratio"] == pytest.approx(totals[-1] / totals.mean())
    assert turn["torch_profiler_kernels"] == turn["xsp_kernels"] == 871
    assert turn["lost"] == 0


def test_kernels_of_both_are_needed(written: tuple[xsp.Profile, Path], tmp_path: Path) -> None:
    """A trace without kernels is no trace that equals xsp's in its totals."""
    prof, path = written
    document = json.loads(gzip.decompress(path.read_bytes()))
    document["traceEvents"] = [
        event for event in document["traceEvents"] if event.get("cat") != "kernel"
    ]
    (tmp_path / "x.json").write_text(json.dumps(document))
    with pytest.raises(SystemExit, match="no kernels to compare"):
        kineto.compared(xsp.from_kineto(tmp_path / "x.json"), prof)


@pytest.mark.parametrize(
    ("ratios", "within"), [([0.995, 1.005] * 6, True), ([0.96, 1.04] * 6, False)]
)
def test_the_whole_interval_must_be_within_the_limit(ratios: list[float], within: bool) -> None:
    """The totals count as equal where the interval of the ratio, not only the ratio, is within 2 %
    of 1.
    """
    turn = {"torch_profiler_kernels": 3, "xsp_kernels": 3, "lost": 0}
    found: dict[str, Any] = kineto.summary([turn | {"ratio": ratio} for ratio in ratios])
    assert found["within_limit"] is within
    assert found["same_kernels"]


def test_a_thinned_trace_has_the_kernels_of_its_step(
    written: tuple[xsp.Profile, Path], tmp_path: Path
) -> None:
    """The step that is saved has the same kernels in the same layers, and the same total, as the
    trace it is from.
    """
    _, path = written
    whole = json.loads(gzip.decompress(path.read_bytes()))
    later = [
        event | {"ts": event["ts"] + 1e6}
        for event in whole["traceEvents"]
        if event.get("ph") == "X"
    ]
    shifted = [
        event | {"args": event["args"] | {"correlation": event["args"]["correlation"] + 10**6}}
        if "correlation" in event["args"]
        else event
        for event in later
    ]
    small = kineto.thinned(whole | {"traceEvents": [*whole["traceEvents"], *shifted]})
    (tmp_path / "x.json").write_text(json.dumps(small))
    one, other = xsp.from_kineto(path), xsp.from_kineto(tmp_path / "x.json")
    assert kineto.kernel_totals(one).tolist() == kineto.kernel_totals(other).tolist()
    assert one.kernel_count == other.kernel_count
    columns = ["name", "level", "kernels"]
    ours, theirs = (
        prof.tree().query("level == 'LAYER'")[columns].to_dict("records") for prof in (one, other)
    )
    assert ours == theirs
