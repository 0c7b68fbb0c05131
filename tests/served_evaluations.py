"""Evaluations that nobody measured, for tests of pages: latencies from a generator."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from captures import gpu_profile

from xsp.evaluation.artifacts.store import ArtifactStore
from xsp.evaluation.manifest.model import Manifest
from xsp.evaluation.records.evaluation import Evaluation, Measure, Trace
from xsp.evaluation.scenarios.scenario import Outcome


def evaluation(
    manifest: Manifest, number: int, mean_ms: float, traces: tuple[Trace, ...] = ()
) -> Evaluation:
    """200 queries, one after another, around a mean; the id is made of the number."""
    generator = np.random.default_rng(number)
    taken = (generator.gamma(50, mean_ms / 50, 200) * 1e6).astype(np.int64)
    ends = np.cumsum(taken)
    outcome = Outcome(
        scenario="single_stream",
        settings={"queries": 200},
        scheduled_ns=ends - taken,
        issued_ns=ends - taken,
        completed_ns=ends,
        samples=np.ones(200, np.int64),
        answered=np.ones(200, bool),
        errors=0,
        valid=True,
        reasons=(),
    )
    return Evaluation(
        id=f"{number:016x}",
        manifest=manifest,
        system={"cpu": "a test's", "labels": {}},
        predictor="torch",
        runtime="2.13.0",
        outcome=outcome,
        measures=(
            Measure("latency_p90", float(np.quantile(taken, 0.9)), "ns", 0.5e6, 9.5e6),
            Measure("energy", None, "joules", reason="there is no GPU"),
        ),
        traces=traces,
        measured_at=1.8e9 + number,
        doubts=("<b>nobody</b> measured this",),
    )


def kept_capture(artifacts: ArtifactStore, folder: Path) -> Trace:
    """A small capture with layers and kernels in an artifact store."""
    profile = gpu_profile()
    with profile.save(folder / "small.xsp").open("rb") as file:
        digest = artifacts.put(file, what="the capture")
    return Trace(digest, "capture", "FULL", len(profile.spans), "0" * 31 + "1")
