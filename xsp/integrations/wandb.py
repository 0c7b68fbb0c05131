"""Weights & Biases: a profile as metrics, a table and an artifact of a run."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import wandb

from xsp.errors import ExportError
from xsp.integrations.numbers import numbers
from xsp.profiles import Profile
from xsp.report.as_json import report_data


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
    target = wandb.run if run is None else run
    if target is None:
        raise ExportError("no run of wandb is active: call wandb.init() first, or give run=")
    rows = report_data(prof)["tree"]
    columns = list(rows[0])
    table = wandb.Table(columns=columns, data=[list(row.values()) for row in rows])
    target.log({**numbers(prof), "xsp/tree": table}, step=step)
    with tempfile.TemporaryDirectory() as folder:
        artifact = wandb.Artifact(name, type="xsp")
        artifact.add_file(str(prof.save(Path(folder) / f"{name}.xsp")))
        target.log_artifact(artifact)
