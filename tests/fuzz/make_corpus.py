"""Makes the seeds of the corpus anew: `python -m fuzz.make_corpus`, in tests/."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
from captures import gpu_capture
from test_import_nsys import nsys_export

import xsp
from xsp.capture.file import Capture, load
from xsp.comparing.comparable import comparable
from xsp.regression.baselines import Baseline

CORPUS = Path(__file__).parent / "corpus"
BUNDLED = Path(__file__).parents[2] / "examples" / "captures"
RUNS = 8
"""Of a bundled capture: two rounds of four rungs."""


def small() -> Capture:
    """The capture of tests/captures.py with every optional table."""
    capture = gpu_capture()
    spans = capture.tables["spans"]
    kernels = spans[(spans["level"] == 3) & (spans["run"] == spans["run"].max())]
    count = len(kernels)
    counters = pd.DataFrame(
        {
            "position": np.arange(count),
            "kernel": kernels["detail"].to_numpy().astype(np.int64),
            "sample": np.arange(count),
            "dram__bytes_read.sum": np.linspace(1e3, 1e6, count),
        }
    )
    ranges = pd.DataFrame(
        {
            "run": np.zeros(1, np.int32),
            "name": ["step"],
            "domain": [""],
            "thread": np.ones(1, np.uint32),
            "start_ns": [0],
            "end_ns": [1000],
        }
    )
    serialized = pd.DataFrame(
        {"run": [0, 0], "layer": [0, 1], "kernels": [2, 1], "busy_ns": [300_000, 100_000]}
    )
    optional = {"counters": counters, "ranges": ranges, "serialized": serialized}
    return Capture(capture.meta, capture.tables | optional)


def shortened(path: Path) -> Capture:
    """The first runs of a capture."""
    capture = load(path)
    kept = {
        name: table[table["run"] < RUNS] if "run" in table and name != "serialized" else table
        for name, table in capture.tables.items()
    }
    return Capture(capture.meta, kept)


def main() -> None:
    """Write the seeds."""
    CORPUS.mkdir(exist_ok=True)
    small().save(CORPUS / "small.xsp")
    shortened(BUNDLED / "h100_train_step.xsp").save(CORPUS / "train_step.xsp")
    shortened(BUNDLED / "h100_transformer.xsp").save(CORPUS / "transformer.xsp")
    prof = xsp.Profile(load(CORPUS / "small.xsp"))
    baseline = Baseline.measured(
        "tests/test_a.py::test_a", "2026-01-01", comparable(prof), {"a": 1}
    )
    (CORPUS / "baseline.json").write_text(baseline.to_json())
    (CORPUS / "nsys.sqlite").unlink(missing_ok=True)
    nsys_export(CORPUS / "nsys.sqlite")
    trace = CORPUS / "kineto.json"
    prof.to_chrome(trace)
    trace.write_text(json.dumps(json.loads(trace.read_text()), indent=0))


if __name__ == "__main__":
    main()
