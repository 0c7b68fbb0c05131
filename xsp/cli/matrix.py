"""`xsp evaluate` for several evaluations: as jobs of a run, here or on a Ray cluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from xsp.evaluation.dispatch.agents import Agents
    from xsp.evaluation.dispatch.job import Answer, Job


@dataclass(frozen=True)
class Told:
    """What a call of `xsp evaluate` tells a program, as values that JSON has, and whether all that
    was asked for was done.
    """

    values: Any
    well: bool = True


LOCAL = "local"
"""In place of an address: a Ray that is started on this machine."""


def agents(ray: str | None, *, apart: bool) -> Agents:
    """Where jobs run: here, on a Ray cluster by its address, or on one that is started here. Here
    they are run in this process, or `apart`, in one of their own, which can be ended.
    """
    if ray is None and apart:
        from xsp.evaluation.dispatch.child import Child

        return Child()
    if ray is None:
        from xsp.evaluation.dispatch.embedded import Embedded

        return Embedded()
    from xsp.evaluation.dispatch.ray_agents import Ray

    return Ray(None if ray == LOCAL else ray)


def start(
    manifests: Sequence[Path],
    predictors: Sequence[str | None],
    scenarios: Sequence[Any],
    *,
    ray: str | None,
    database: str | None,
    artifacts: Path | None,
    **options: Any,
) -> Told:
    """Keep every combination as a job and run them."""
    from xsp.database.store import Store
    from xsp.evaluation.artifacts.store import ArtifactStore
    from xsp.evaluation.matrix import matrix, new_run
    from xsp.evaluation.records.jobs import add_jobs

    run = new_run()
    jobs = matrix(
        manifests,
        run=run,
        artifacts=ArtifactStore(artifacts),
        predictors=predictors,
        scenarios=scenarios,
        **options,
    )
    with Store(database) as store:
        add_jobs(store, run, jobs)
    typer.echo(f"run {run}: {len(jobs)} evaluations; xsp evaluate --resume {run} goes on with it")
    return go_on(run, ray=ray, database=database)


def go_on(run: str, *, ray: str | None, database: str | None) -> Told:
    """Run the jobs of a run that have not ended."""
    from xsp.database.store import Store
    from xsp.evaluation.matrix import dispatch
    from xsp.evaluation.records.jobs import unfinished

    with Store(database) as store:
        limited = any(job.time_limit_s is not None for job in unfinished(store, run))
        where = agents(ray, apart=limited)
        summary = dispatch(run, store, where, started=_on_start, ended=_on_end)
    typer.echo(str(summary))
    values = {
        "run": run,
        "done": summary.done,
        "failed": summary.failed,
        "kept": summary.kept,
        "remaining": len(summary.remaining),
        "lost": list(summary.lost),
        "notes": list(summary.notes),
    }
    return Told(values, well=summary.complete and not summary.failed)


def _on_start(job: Job, agent: str) -> None:
    typer.echo(f"{_named(job)} on {agent}")


def _on_end(answer: Answer, evaluation: str | None) -> None:
    told = f"failed: {answer.error}" if answer.failed else f"evaluation {evaluation}"
    typer.echo(f"{_named(answer.job)}: {told}")


def _named(job: Job) -> str:
    from xsp.evaluation.manifest.reading import manifest_from_record

    manifest = manifest_from_record(job.payload["manifest"])
    return f"{manifest.name}, {manifest.runtime.predictor}, {manifest.scenario.kind}"
