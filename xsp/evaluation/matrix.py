"""Every combination of manifests, predictors and scenarios as jobs, and running them.

Agents on other machines need the artifact store: a folder that all see, such as one on a network
file system, named by XSP_ARTIFACTS or the argument.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from xsp.database.store import Store
from xsp.evaluation.artifacts.gathering import gather
from xsp.evaluation.artifacts.store import ArtifactStore
from xsp.evaluation.dispatch.agents import Agents
from xsp.evaluation.dispatch.job import Answer, Job, job_key
from xsp.evaluation.dispatch.requirements import required
from xsp.evaluation.dispatch.running import run_jobs
from xsp.evaluation.dispatch.summary import Summary
from xsp.evaluation.manifest.model import Manifest
from xsp.evaluation.manifest.reading import manifest_from_record, read_manifest
from xsp.evaluation.pipeline.system import MakeSystem
from xsp.evaluation.records import jobs as records
from xsp.evaluation.records.transport import as_json
from xsp.evaluation.running import changed, evaluated
from xsp.evaluation.scenarios.process import MeasuredProcess
from xsp.evaluation.scenarios.starting import Forking

_FORKING = Forking()
_PROCESS = MeasuredProcess(_FORKING)
"""Where this process's jobs run their scenarios: jobs that follow one another and differ only in
the scenario share a model, and all share the import of torch."""

AS_WRITTEN = None
"""In place of a predictor or scenario: the manifest's own."""


def new_run() -> str:
    """An id for a run: 16 hexadecimal digits."""
    return secrets.token_hex(8)


def matrix(
    manifests: Iterable[str | os.PathLike[str]],
    *,
    run: str,
    artifacts: ArtifactStore,
    predictors: Sequence[str | None] = (AS_WRITTEN,),
    scenarios: Sequence[Mapping[str, Any] | None] = (AS_WRITTEN,),
    trace: str = "NONE",
    allow_code: bool = False,
    allow_fetch: bool = False,
    labels: Mapping[str, str] | None = None,
    on: Mapping[str, str] | None = None,
    time_limit_s: float | None = None,
) -> list[Job]:
    """A job for each manifest by each predictor under each scenario.

    Everything that a manifest names is brought into the artifact store here. `labels` are kept with
    the system. `on` is what an agent must have beside what manifests ask for, such as
    `{"host": "node-7"}`. A job that takes longer than `time_limit_s`, all of it, is ended; the
    scenario has a limit of its own.

    Raises ManifestError and EvaluationError, before there is any job, where a manifest cannot be
    read, a combination is none, or an artifact cannot be had.
    """
    store = str(artifacts.folder)
    common = {
        "artifacts": store,
        "trace": trace,
        "allow_code": allow_code,
        "labels": dict(labels or {}),
        records.TIME_LIMIT: time_limit_s,
    }
    found = []
    for path in manifests:
        whole = gather(read_manifest(path), Path(path).parent, artifacts, allow_fetch=allow_fetch)
        for each in _combinations(whole, predictors, scenarios):
            wanted = required(each, on or {})
            key = job_key(run, each.identity, trace, wanted)
            system = MakeSystem.of(each, artifacts, allow_code=allow_code)
            alike = job_key(system.manifest)
            payload = {**common, "manifest": each.canonical(), "job": key, records.ALIKE: alike}
            found.append(Job(key, payload, wanted, time_limit_s, alike))
    return found


def run_one(payload: Mapping[str, Any]) -> dict[str, Any]:
    """What an agent does with a job: the evaluation as JSON. It writes to no database."""
    found = evaluated(
        manifest_from_record(payload["manifest"]),
        ArtifactStore(payload["artifacts"]),
        trace=payload["trace"],
        allow_code=payload["allow_code"],
        labels=payload["labels"],
        job=payload["job"],
        process=_PROCESS,
    )
    return as_json(found)


def dispatch(
    run: str,
    store: Store,
    agents: Agents | None = None,
    *,
    started: Callable[[Job, str], None] | None = None,
    ended: Callable[[Answer, str | None], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Summary:
    """Run the jobs of a run that have not ended, and write each evaluation or error.

    Args:
        run: whose jobs `records.jobs.add_jobs` has kept; also one that was killed.
        store: written to by this process alone.
        agents: where jobs run; this process by default.
        started: told of each job that is handed out, and its agent.
        ended: told of each answer that was written, and the id of its evaluation.
        stop: asked before a job is handed out.

    Raises EvaluationError for an unknown run, DispatchError, DatabaseError.

    """

    def write(answer: Answer) -> None:
        found = records.finish(store, answer)
        if ended is not None:
            ended(answer, found)

    waiting = records.unfinished(store, run)
    try:
        return run_jobs(waiting, run_one, write, agents, started=started, stop=stop)
    finally:
        _PROCESS.close()
        _FORKING.close()


def _combinations(
    manifest: Manifest,
    predictors: Sequence[str | None],
    scenarios: Sequence[Mapping[str, Any] | None],
) -> Iterator[Manifest]:
    for predictor in predictors:
        for scenario in scenarios:
            settings = None if scenario is None else dict(scenario)
            yield changed(manifest, predictor=predictor, scenario=settings)
