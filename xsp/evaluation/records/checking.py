"""Whether what was read is an evaluation: a file from elsewhere, or a database that something else
wrote to, can hold anything.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping

from xsp.evaluation.records.evaluation import Evaluation, Measure

_ID = re.compile(r"[0-9A-Za-z]{1,64}")
_LATEST = 253_402_300_799.0
"""The end of the year 9999, unix time: what a date can be."""


def checked(found: Evaluation) -> Evaluation:
    """The evaluation. Raises ValueError for the first thing in it that is not what it has to be."""
    for said in _faults(found):
        raise ValueError(said)
    return found


def _faults(found: Evaluation) -> Iterator[str]:
    if not isinstance(found.id, str) or not _ID.fullmatch(found.id):
        yield f"its id is {found.id!r}, not letters and digits"
    if not isinstance(found.system, Mapping):
        yield f"its system is {type(found.system).__name__}, not a mapping"
    if not _number(found.measured_at) or not 0 <= found.measured_at <= _LATEST:
        yield f"its time is {found.measured_at!r}, not seconds since 1970"
    texts = [found.predictor, found.runtime, *found.doubts, *found.outcome.reasons]
    if not all(isinstance(each, str) for each in texts):
        yield "its runtime, doubts or reasons are not text"
    if len({each.name for each in found.measures}) < len(found.measures):
        yield "it has a measure twice"
    for each in found.measures:
        if not _is_measure(each):
            yield f"its measure {each.name!r} is not a number with an interval"
    lengths = {len(found.outcome.samples), len(found.outcome.latency_ns)}
    if len(lengths) > 1:
        yield "its columns have several lengths"


def _is_measure(each: Measure) -> bool:
    return isinstance(each.name, str) and all(
        value is None or _number(value) for value in (each.value, each.low, each.high)
    )


def _number(value: object) -> bool:
    # A bool is no number here.
    return isinstance(value, int | float) and type(value) is not bool and math.isfinite(value)
