"""An evaluation as JSON: from an agent to the one who writes, and into a file where there is no
database.
"""

from __future__ import annotations

import base64
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from xsp.capture.writing import write_file
from xsp.errors import DatabaseError, EvaluationError, WriteError
from xsp.evaluation.manifest.reading import manifest_from_record
from xsp.evaluation.records.checking import checked
from xsp.evaluation.records.evaluation import Evaluation, Measure, Trace
from xsp.evaluation.records.packing import details_of, packed, unpacked

FORMAT = "xsp evaluation"


def as_json(evaluation: Evaluation) -> dict[str, Any]:
    """All of it, as values that JSON has."""
    outcome = evaluation.outcome
    return {
        "format": FORMAT,
        "id": evaluation.id,
        "manifest": evaluation.manifest.canonical(),
        "system": dict(evaluation.system),
        "predictor": evaluation.predictor,
        "runtime": evaluation.runtime,
        "outcome": {
            "id": evaluation.id,
            "errors": outcome.errors,
            "valid": outcome.valid,
            "reasons": json.dumps(
                {"reasons": list(outcome.reasons), "doubts": list(outcome.doubts)}
            ),
            "details": details_of(outcome),
            "queries": base64.b64encode(packed(outcome)).decode(),
        },
        "measures": [asdict(each) for each in evaluation.measures],
        "traces": [asdict(each) for each in evaluation.traces],
        "measured_at": evaluation.measured_at,
        "doubts": list(evaluation.doubts),
        "job": evaluation.job,
        "again": evaluation.again,
    }


def from_json(given: Mapping[str, Any]) -> Evaluation:
    """The evaluation. Raises EvaluationError for something else, or a damaged one."""
    try:
        if given["format"] != FORMAT:
            raise ValueError(given["format"])
        columns = base64.b64decode(given["outcome"]["queries"], validate=True)
        if not isinstance(given["doubts"], list) or type(given["outcome"]["valid"]) is not bool:
            raise ValueError("its doubts are no list, or it does not say whether it is valid")
        found = Evaluation(
            id=given["id"],
            manifest=manifest_from_record(given["manifest"]),
            system=given["system"],
            predictor=given["predictor"],
            runtime=given["runtime"],
            outcome=unpacked(columns, given["outcome"]),
            measures=tuple(Measure(**each) for each in given["measures"]),
            traces=tuple(Trace(**each) for each in given["traces"]),
            measured_at=given["measured_at"],
            doubts=tuple(given["doubts"]),
            job=given["job"],
            again=given["again"],
        )
        return checked(found)
    except (KeyError, TypeError, ValueError, DatabaseError) as error:
        raise EvaluationError(
            f"this is not an evaluation, or it is damaged ({type(error).__name__}: {error}); give "
            "a file that xsp evaluate wrote"
        ) from error


def load(path: str | os.PathLike[str]) -> Evaluation:
    """An evaluation from a file that `keep` wrote. Raises EvaluationError."""
    try:
        given = json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise EvaluationError(
            f"{str(path)!r} cannot be read as an evaluation ({error}); give a file that xsp "
            "evaluate wrote"
        ) from error
    return from_json(given)


def keep(evaluation: Evaluation) -> str:
    """Save to a new file among the temporary ones; a sentence says where it is, or that it is
    lost.
    """
    try:
        folder = Path(tempfile.mkdtemp(prefix="xsp-"))
        path = folder / f"evaluation-{evaluation.id}.json"
        write_file(path, json.dumps(as_json(evaluation)).encode())
    except (OSError, WriteError) as error:
        return f"The evaluation is lost: it could not be kept elsewhere either ({error})"
    return f"The evaluation is kept in {str(path)!r}; xsp evaluate --add {path} puts it in later"
