"""MLflow: a profile or an evaluation as metrics and artifacts of a run."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import mlflow

from xsp.integrations.numbers import evaluation_facts, evaluation_numbers, numbers
from xsp.profiles import Profile
from xsp.report.as_json import report_data

if TYPE_CHECKING:
    from xsp.evaluation.records.evaluation import Evaluation

FOLDER = "xsp"


def log_profile(prof: Profile, *, step: int | None = None, name: str = "profile") -> None:
    """Log to the active run, which MLflow begins where there is none: the numbers as metrics
    `xsp/…`, the summary as text and JSON, and the capture, which `xsp.load` opens.

    Args:
        prof: the profile.
        step: of the metrics.
        name: of the artifacts, in the folder `xsp`.

    """
    mlflow.log_metrics(numbers(prof), step=step)
    mlflow.log_text(f"{prof}\n", f"{FOLDER}/{name}.txt")
    mlflow.log_dict(report_data(prof), f"{FOLDER}/{name}.json")
    with tempfile.TemporaryDirectory() as folder:
        mlflow.log_artifact(str(prof.save(Path(folder) / f"{name}.xsp")), FOLDER)


def log_evaluation(found: Evaluation, *, step: int | None = None, name: str = "evaluation") -> None:
    """Log to the active run, which MLflow begins where there is none: the measures as metrics
    `xsp/…`, model, runtime and scenario as tags `xsp.…`, the summary as text, and the manifest.

    Args:
        found: the evaluation.
        step: of the metrics.
        name: of the artifacts, in the folder `xsp`.

    """
    mlflow.log_metrics(evaluation_numbers(found), step=step)
    mlflow.set_tags({f"xsp.{key}": value for key, value in evaluation_facts(found).items()})
    mlflow.log_text(f"{found}\n", f"{FOLDER}/{name}.txt")
    mlflow.log_dict(found.manifest.model_dump(mode="json"), f"{FOLDER}/{name}.json")
