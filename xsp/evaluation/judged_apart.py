"""Accuracy over a whole data set, in a process that can be ended: a model that never answers, or
that ends its process, is one sentence.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from xsp.evaluation.artifacts.store import ArtifactStore
from xsp.evaluation.manifest.model import Manifest
from xsp.evaluation.manifest.reading import manifest_from_record
from xsp.evaluation.metrics.accuracy import Accuracy, Value
from xsp.evaluation.pipeline.assembling import Assembled, assemble
from xsp.evaluation.pipeline.passing import pass_through
from xsp.evaluation.records.evaluation import ACCURACY, Measure
from xsp.evaluation.scenarios import task
from xsp.evaluation.scenarios.process import MeasuredProcess, alone
from xsp.evaluation.scenarios.recording import Recording
from xsp.evaluation.scenarios.running import own_folder

Judge = Callable[[Recording], dict[str, Any]]
"""Judges the whole data set; gives the values as JSON has them."""


def judged(
    manifest: Manifest,
    store: ArtifactStore,
    samples: int,
    process: MeasuredProcess,
    *,
    allow_code: bool,
) -> list[Measure]:
    """What the manifest's metrics say of all of its samples; nothing is run where there are none.

    The process is ended afterwards, so that the scenario's has nothing of it. Raises
    EvaluationError for whatever fails there, and where it takes longer than the manifest's
    `metrics.time_limit_s`, or the scenario's; the folder with what it printed stays then.
    """
    if not manifest.metrics.accuracy:
        return []
    folder = own_folder(store.folder / "logs", "accuracy")
    make = task.pickled(MakeJudge(manifest.canonical(), store.folder, allow_code))
    limit_s = manifest.metrics.time_limit_s or manifest.scenario.time_limit_s
    with alone(), process:
        report = process.run(task.Task(task.Judging(), make, samples, folder), limit_s)
    shutil.rmtree(folder, ignore_errors=True)
    return [_measure(Value(**each)) for each in report.details["values"]]


@dataclass(frozen=True)
class MakeJudge:
    """Makes what judges, in the process where it is run; can be pickled. Arguments as those of
    `pipeline.system.MakeSystem`.
    """

    manifest: str
    store: Path
    allow_code: bool

    def __call__(self) -> Judge:
        """Load the model."""
        manifest = manifest_from_record(self.manifest)
        made = assemble(manifest, ArtifactStore(self.store), allow_code=self.allow_code)
        return partial(_judged, made)


def _judged(made: Assembled, batches: Recording) -> dict[str, Any]:
    metrics = made.manifest.metrics
    accuracy = Accuracy(metrics.accuracy)

    def judge(predictions: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
        row = batches.issued(time.monotonic_ns(), len(rows), batches.count)
        accuracy.update(predictions, rows)
        batches.completed(row, time.monotonic_ns(), failed=False)

    pass_through(made, metrics.batch, judge)
    return {"values": [asdict(each) for each in accuracy.values()]}


def _measure(found: Value) -> Measure:
    value = found.value if math.isfinite(found.value) else None
    return Measure(found.name, value, ACCURACY, found.low, found.high, found.reason)
