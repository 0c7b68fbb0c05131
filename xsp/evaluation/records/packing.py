"""The columns of an outcome as bytes, and back."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from xsp.errors import DatabaseError
from xsp.evaluation.scenarios.scenario import Outcome, Usage

_COLUMNS = ("scheduled_ns", "issued_ns", "completed_ns", "samples", "answered")


def packed(outcome: Outcome) -> bytes:
    """The columns as a compressed .npz."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{name: getattr(outcome, name) for name in _COLUMNS})
    return buffer.getvalue()


def details_of(outcome: Outcome) -> str:
    """What an outcome has beside its columns, as JSON."""
    return json.dumps(
        {
            "scenario": outcome.scenario,
            "settings": dict(outcome.settings),
            "details": dict(outcome.details),
            "usage": asdict(outcome.usage),
            "logs": None if outcome.logs is None else str(outcome.logs),
        },
        sort_keys=True,
    )


def unpacked(columns: bytes, row: Mapping[str, Any]) -> Outcome:
    """An outcome from a row of `evaluations`. Raises DatabaseError for a damaged one."""
    try:
        with np.load(io.BytesIO(columns), allow_pickle=False) as found:
            arrays = {name: found[name] for name in _COLUMNS}
        more = json.loads(row["details"])
        return Outcome(
            scenario=more["scenario"],
            settings=more["settings"],
            errors=row["errors"],
            valid=bool(row["valid"]),
            reasons=tuple(json.loads(row["reasons"])["reasons"]),
            doubts=tuple(json.loads(row["reasons"])["doubts"]),
            details=more["details"],
            usage=Usage(**more["usage"]),
            **arrays,
        )
    except (ValueError, KeyError, TypeError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise damaged(row["id"], error) from error


def damaged(id: object, error: Exception) -> DatabaseError:  # noqa: A002 - as everywhere
    """What is raised for a record that cannot be read."""
    return DatabaseError(
        f"the record of evaluation {id!r} is damaged ({type(error).__name__}: {error}); restore a "
        "copy of the database"
    )
