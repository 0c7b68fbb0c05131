"""`evaluate`: one manifest, one runtime, one scenario, one row of the database."""

from __future__ import annotations

import json
import math
import os
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xsp.database.store import Store
from xsp.errors import DatabaseError
from xsp.evaluation.artifacts.gathering import code_files, gather
from xsp.evaluation.artifacts.store import ArtifactStore
from xsp.evaluation.dispatch.requirements import check_here
from xsp.evaluation.dispatch.worker import offer
from xsp.evaluation.judged_apart import judged
from xsp.evaluation.manifest.model import Manifest
from xsp.evaluation.manifest.reading import manifest_of, read_manifest
from xsp.evaluation.metrics.estimate import Estimate
from xsp.evaluation.metrics.measured import measured
from xsp.evaluation.pipeline.assembling import assemble, plan
from xsp.evaluation.pipeline.system import MakeSystem
from xsp.evaluation.records.differing import LABELS
from xsp.evaluation.records.evaluation import Evaluation, Measure, Trace
from xsp.evaluation.records.transport import keep
from xsp.evaluation.records.writing import write
from xsp.evaluation.scenarios.process import MeasuredProcess
from xsp.evaluation.scenarios.replay import with_arrivals
from xsp.evaluation.scenarios.running import run_scenario
from xsp.evaluation.scenarios.scenario import Outcome
from xsp.evaluation.tracing import checked_level, traced
from xsp.machine.environment import environment

_VOLATILE = frozenset({"measured_peaks"})
"""Facts of the environment that say nothing about what an evaluation ran on."""


def evaluate(
    manifest: Manifest | str | os.PathLike[str],
    *,
    predictor: str | None = None,
    scenario: Any = None,
    database: Store | str | os.PathLike[str] | None = None,
    artifacts: str | os.PathLike[str] | None = None,
    trace: str = "NONE",
    allow_code: bool = False,
    allow_fetch: bool = False,
    labels: Mapping[str, str] | None = None,
    process: MeasuredProcess | None = None,
) -> Evaluation:
    """Evaluate what a manifest specifies, and keep it in the database.

    First everything that it names is brought into the artifact store and checked, then accuracy is
    measured over the whole data set, then the scenario is run, each in a process of its own that
    is ended at its time limit. A trace is made last, by another run: no number comes from it.

    Args:
        manifest: a file, or a manifest whose artifacts are in the store already.
        predictor: a runtime in place of the manifest's; its options then are not the manifest's.
        scenario: settings in place of the manifest's.
        database: as for `xsp.database.store.Store`, the user's by default.
        artifacts: the folder of the artifact store, the user's by default.
        trace: NONE, MODEL, FRAMEWORK, SYSTEM or FULL.
        allow_code: whether Python that the manifest names may run.
        allow_fetch: whether artifacts that are not here may be fetched.
        labels: what else to keep of the system.
        process: where the scenario is run. Evaluations that differ only in the scenario and follow
            one another share its model; one of its own by default.

    Raises ManifestError, EvaluationError, WriteError and DatabaseError, each in one sentence,
    before anything is measured where that is possible. Where the database fails afterwards, the
    evaluation is kept in a file that the sentence names.

    """
    checked_level(trace)
    asked = manifest if isinstance(manifest, Manifest) else read_manifest(manifest)
    check_here(asked, offer("here", None, labels))
    store = database if isinstance(database, Store) else Store(database)
    try:
        kept = ArtifactStore(artifacts)
        found = evaluated(
            manifest,
            kept,
            predictor=predictor,
            scenario=scenario,
            trace=trace,
            allow_code=allow_code,
            allow_fetch=allow_fetch,
            labels=labels,
            process=process,
        )
        record(store, found, kept)
        return found
    finally:
        if store is not database:
            store.close()


def evaluated(
    manifest: Manifest | str | os.PathLike[str],
    artifacts: ArtifactStore,
    *,
    predictor: str | None = None,
    scenario: Any = None,
    trace: str = "NONE",
    allow_code: bool = False,
    allow_fetch: bool = False,
    labels: Mapping[str, str] | None = None,
    again: str | None = None,
    job: str | None = None,
    process: MeasuredProcess | None = None,
) -> Evaluation:
    """`evaluate` without the database: what an agent on another machine does."""
    checked_level(trace)
    base = None if isinstance(manifest, Manifest) else Path(manifest).parent
    asked = manifest if isinstance(manifest, Manifest) else read_manifest(manifest)
    asked = changed(asked, predictor=predictor, scenario=scenario)
    asked = asked.model_copy(update={"scenario": with_arrivals(asked.scenario, base)})
    asked = gather(asked, base, artifacts, allow_fetch=allow_fetch)
    planned = plan(asked, artifacts, allow_code=allow_code)
    runtime, samples = planned.predictor.version(), len(planned.samples)
    other = MeasuredProcess() if process is None else process.another()
    accuracy = judged(asked, artifacts, samples, other, allow_code=allow_code)
    began = time.time()
    system = MakeSystem.of(asked, artifacts, allow_code=allow_code)
    logs = artifacts.folder / "logs"
    outcome = run_scenario(asked.scenario, system, samples, logs=logs, process=process)
    traces: list[Trace] = []
    doubts = list(outcome.doubts)
    if trace != "NONE":
        if process is not None:
            process.close()  # it holds the model, and memory of the GPU, too
        with assemble(asked, artifacts, allow_code=allow_code) as made:
            traces, notes = traced(made, trace, artifacts)
        doubts += notes
    return Evaluation(
        id=secrets.token_hex(8),
        manifest=asked,
        system=_facts(asked, runtime, labels or {}),
        predictor=asked.runtime.predictor,
        runtime=runtime,
        outcome=outcome,
        measures=(*_measures(outcome, asked), *accuracy),
        traces=tuple(traces),
        measured_at=began,
        doubts=tuple(doubts),
        job=job,
        again=again,
    )


def record(store: Store, found: Evaluation, artifacts: ArtifactStore) -> None:
    """Keep an evaluation; in a file where the database fails, which the DatabaseError names."""
    try:
        write(store, found, code_files(found.manifest, artifacts))
    except DatabaseError as error:
        raise DatabaseError(f"{error}. {keep(found)}") from error


def changed(manifest: Manifest, *, predictor: str | None, scenario: Any) -> Manifest:
    """The manifest with another runtime or scenario; checked as if it had been written so."""
    content = manifest.model_dump(mode="json")
    if predictor is not None and predictor != manifest.runtime.predictor:
        content["runtime"] |= {"predictor": predictor, "options": {}}
    if scenario is not None:
        content["scenario"] = (
            scenario if isinstance(scenario, dict) else scenario.model_dump(mode="json")
        )
    given = {"predictor": predictor, "scenario": scenario}
    told = [f"the {name} {value}" for name, value in given.items() if value is not None]
    name = " and ".join(told) or "the manifest"
    return manifest_of(json.dumps(content).encode(), name, lines=False)


def _measures(outcome: Outcome, manifest: Manifest) -> list[Measure]:
    price = manifest.metrics.price
    found = measured(
        outcome,
        None if price is None else price.per_hour,
        "price" if price is None else price.currency,
    )
    return [_measure(name, each) for name, each in found.items()]


def _measure(name: str, found: Estimate) -> Measure:
    value, low, high = (
        float(number) if math.isfinite(number) else None
        for number in (found.value, found.low, found.high)
    )
    return Measure(name, value, found.unit, low, high, found.reason)


def facts_here() -> dict[str, Any]:
    """What is kept of this system with every evaluation."""
    return {name: value for name, value in environment().items() if name not in _VOLATILE}


def _facts(manifest: Manifest, runtime: str, labels: Mapping[str, str]) -> dict[str, Any]:
    return {**facts_here(), manifest.runtime.predictor: runtime, LABELS: dict(labels)}
