"""An evaluation as it is kept: what was asked, on what it ran, what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from xsp.evaluation.manifest.model import Manifest
from xsp.evaluation.scenarios.scenario import Outcome


@dataclass(frozen=True)
class Measure:
    """A value with its 95 % interval; None is unknown, and `reason` says why."""

    name: str
    value: float | None
    unit: str = ""
    low: float | None = None
    high: float | None = None
    reason: str = ""

    def __str__(self) -> str:
        """Times in ms; the columns keep ns."""
        if self.value is None:
            return f"{self.name} unknown: {self.reason}" if self.reason else f"{self.name} unknown"
        factor, unit = (1e-6, "ms") if self.unit == "ns" else (1.0, self.unit)
        text = f"{self.name} {self.value * factor:.6g}"
        if self.low is not None and self.high is not None:
            text += f" [{self.low * factor:.6g}, {self.high * factor:.6g}]"
        return f"{text} {unit}".rstrip()


@dataclass(frozen=True)
class Trace:
    """A file of the artifact store: a capture, or the spans of the pipeline's stages.

    `level` is that of the evaluation, such as FRAMEWORK; `trace_id` is shared by the files of one
    evaluation. It comes from a run of its own: no number of the evaluation does.
    """

    sha256: str
    kind: str
    level: str
    spans: int
    trace_id: str


@dataclass(frozen=True)
class Evaluation:
    """One call of `evaluate`.

    Args:
        id: 16 hexadecimal digits.
        manifest: gathered: with the checksum of everything that it names.
        system: facts of the machine, versions of runtimes, labels, as JSON has them.
        predictor: the runtime that ran it.
        runtime: the runtime's version.
        outcome: of the scenario: columns over queries, from untraced runs.
        measures: latency, throughput, memory, energy, cost, accuracy.
        traces: what was traced, in runs of their own.
        measured_at: unix time.
        doubts: sentences that belong to the numbers.
        job: the key of a dispatched one.
        again: the evaluation that it repeats.

    """

    id: str
    manifest: Manifest
    system: Mapping[str, Any]
    predictor: str
    runtime: str
    outcome: Outcome
    measures: tuple[Measure, ...]
    traces: tuple[Trace, ...]
    measured_at: float
    doubts: tuple[str, ...] = ()
    job: str | None = None
    again: str | None = None

    @property
    def accuracy(self) -> dict[str, float]:
        """The metrics of the manifest's `accuracy`, by name."""
        return {
            each.name: each.value
            for each in self.measures
            if each.unit == ACCURACY and each.value is not None
        }

    def measure(self, name: str) -> Measure:
        """A measure by its name. Raises KeyError."""
        return {each.name: each for each in self.measures}[name]

    def __str__(self) -> str:
        model = self.manifest.model
        lines = [
            f"evaluation {self.id}: {model.name} {model.version} on {self.predictor} {self.runtime}"
            f" ({self.manifest.runtime.device}), {self.outcome.scenario}, {when(self.measured_at)}"
        ]
        lines += [f"  {each}" for each in self.measures]
        if not self.outcome.valid:
            lines += [f"  not valid: {reason}" for reason in self.outcome.reasons or ("no reason",)]
        lines += [f"  doubt: {each}" for each in self.doubts]
        lines += [
            f"  {each.kind} of a run of its own ({each.level}): {each.spans} spans, {each.sha256}"
            for each in self.traces
        ]
        return "\n".join(lines)


def when(unix_s: float) -> str:
    """A unix time to the minute; "unknown" where it is none."""
    try:
        return f"{datetime.fromtimestamp(unix_s, timezone.utc):%Y-%m-%d %H:%M} UTC"
    except (TypeError, ValueError, OverflowError, OSError):
        return "unknown"


ACCURACY = "accuracy"
"""The unit of measures of accuracy."""
UNTRACED, TRACED = "untraced", "traced"
"""Which runs something is of: no measure comes from a run in which anything was traced."""
