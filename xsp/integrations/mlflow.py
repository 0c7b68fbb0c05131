"""MLflow: a profile as metrics and artifacts of a run."""

from __future__ import annotations

import tempfile
from pathlib import Path

import mlflow

from xsp.integrations.numbers import numbers
from xsp.profiles import Profile
from xsp.report.as_json import report_data

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
