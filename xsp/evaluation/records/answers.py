"""What an evaluation and a comparison tell a program, on the command line and over REST: values
that JSON has, without the times of single queries, which the database keeps.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from xsp.evaluation.records.comparison import Comparison
from xsp.evaluation.records.evaluation import TRACED, UNTRACED, Evaluation
from xsp.words.numbers import known

if TYPE_CHECKING:
    import pandas as pd


def evaluation_values(found: Evaluation) -> dict[str, Any]:
    """What was evaluated, whether it is valid and why not, measures and traces; `runs` says of both
    which runs they are of.
    """
    manifest, outcome = found.manifest, found.outcome
    return {
        "id": found.id,
        "name": manifest.name,
        "model": manifest.model.name,
        "version": manifest.model.version,
        "predictor": found.predictor,
        "runtime": found.runtime,
        "scenario": outcome.scenario,
        "valid": outcome.valid,
        "reasons": list(outcome.reasons),
        "doubts": list(found.doubts),
        "measured_at": found.measured_at,
        "measures": [{**asdict(each), "runs": UNTRACED} for each in found.measures],
        "traces": [{**asdict(each), "runs": TRACED} for each in found.traces],
        "system": dict(found.system),
        "manifest": manifest.model_dump(mode="json"),
    }


def comparison_values(found: Comparison) -> dict[str, Any]:
    """The verdict on latencies, with None for what is not known, and what else differs."""
    latency = found.latency
    return {
        "before": found.before,
        "after": found.after,
        "verdict": latency.name,
        "ratio": known(latency.ratio),
        "low": known(latency.low),
        "high": known(latency.high),
        "p_value": known(latency.p_value),
        "accuracy": json_rows(found.accuracy),
        "doubts": list(found.doubts),
        "sentences": found.sentences(),
    }


def json_rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as JSON has them: what is missing is null."""
    found: list[dict[str, Any]] = json.loads(table.to_json(orient="records", double_precision=15))
    return found
