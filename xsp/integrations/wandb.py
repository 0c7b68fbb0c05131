"""Weights & Biases: a profile or an evaluation as metrics, a table and an artifact of a run."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import wandb

from xsp.errors import ExportError
from xsp.integrations.numbers import evaluation_facts, evaluation_numbers, numbers
from xsp.profiles import Profile
from xsp.report.as_json import report_data

if TYPE_CHECKING:
    from xsp.evaluation.records.evaluation import Evaluation


def log_profile(
    prof: Profile, run: Any = None, *, step: int | None = None, name: str = "profile"
) -> None:
    """Log to a run, the current one by default: the numbers `xsp/…`, the hierarchy as the table
    `xsp/tree`, and the capture, which `xsp.load` opens, as an artifact of type `xsp`.

    Args:
        prof: the profile.
        run: of `wandb.init`.
        step: of the numbers.
        name: of the artifact.

    Raises ExportError where no run is active.

    """
    target = _active(run)
    rows = report_data(prof)["tree"]
    columns = list(rows[0])
    table = wandb.Table(columns=columns, data=[list(row.values()) for row in rows])
    target.log({**numbers(prof), "xsp/tree": table}, step=step)
    with tempfile.TemporaryDirectory() as folder:
        artifact = wandb.Artifact(name, type="xsp")
        artifact.add_file(str(prof.save(Path(folder) / f"{name}.xsp")))
        target.log_artifact(artifact)


def log_evaluation(found: Evaluation, run: Any = None, *, step: int | None = None) -> None:
    """Log to a run, the current one by default: the measures `xsp/…`, and model, runtime, scenario
    and the manifest in the run's configuration under `xsp`.

    Args:
        found: the evaluation.
        run: of `wandb.init`.
        step: of the numbers.

    Raises ExportError where no run is active.

    """
    target = _active(run)
    said = {**evaluation_facts(found), "manifest": found.manifest.model_dump(mode="json")}
    target.config.update({"xsp": said}, allow_val_change=True)
    target.log(evaluation_numbers(found), step=step)


def _active(run: Any) -> Any:
    """The run, or the current one."""
    target = wandb.run if run is None else run
    if target is None:
        raise ExportError("no run of wandb is active: call wandb.init() first, or give run=")
    return target
