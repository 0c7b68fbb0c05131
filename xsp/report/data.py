"""A profile's summary as values: what `xsp report --json` writes."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from xsp.report import summary
from xsp.report.try_ import suggestions

if TYPE_CHECKING:
    from xsp.analysis.profile_data import ProfileData

FORMAT = "xsp-report"
VERSION = 1
"""Of the names below: a name that is added is no new version."""

_COLUMNS = (
    "depth",
    "level",
    "name",
    "type",
    "phase",
    "path",
    "calls",
    "host_ms",
    "host_ci_ms",
    "device_ms",
    "latency_ms",
    "latency_ci_ms",
    "share",
    "kernels",
)


def report_data(prof: ProfileData) -> dict[str, Any]:
    """Everything that the summary says, and the rows of the hierarchy; what is not known is None.

    Times are in ms, `…_ci_ms` half of a 95 % interval.
    """
    rows = prof.tree()[list(_COLUMNS)].to_dict("records")
    return {
        "format": FORMAT,
        "version": VERSION,
        "name": prof.name,
        "latency_ms": _known(prof.latency_ms),
        "latency_ci_ms": _known(prof.latency_ci_ms),
        "rounds": int(prof.runs["round"].nunique()),
        "facts": [list(fact) for fact in summary.facts(prof)],
        "warnings": summary.doubts(prof),
        "try": [each._asdict() for each in suggestions(prof)],
        "levels": prof.levels.to_dict("records"),
        "environment": prof.environment,
        "tree": [{name: _known(value) for name, value in row.items()} for row in rows],
    }


def report_json(prof: ProfileData) -> str:
    """`report_data` as a line of JSON for each of its values."""
    data = report_data(prof)
    lines = [
        f" {json.dumps(name)}: {json.dumps(value, ensure_ascii=False, allow_nan=False)}"
        for name, value in data.items()
    ]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _known(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
