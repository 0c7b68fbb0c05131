"""Why rounds ended and what makes numbers doubtful, as values: program flow looks at these, and
`xsp.words.doubts` words them for people.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any


class StopReason(str, Enum):
    """Why no more rounds were run."""

    ASKED = "asked"
    PRECISE = "precise"
    BUDGET = "budget"
    MOST_ROUNDS = "most-rounds"
    INTERRUPTED = "interrupted"
    OWN_RULE = "own-rule"


@dataclass(frozen=True)
class Stopped:
    """The end of the rounds: why, after how many, and what was known by then.

    `half_width` and `of_layers` are half widths of the 95 % intervals of the model latency and of
    the widest of the longest layers, relative to the model latency; `target` is what they were to
    be. None where the rule did not look. `said` is the sentence of a caller's own rule.
    """

    reason: StopReason
    rounds: int
    half_width: float | None = None
    of_layers: float | None = None
    target: float | None = None
    said: str = ""

    @property
    def cut_short(self) -> bool:
        """Whether more rounds were wanted when it ended."""
        return self.reason in {StopReason.BUDGET, StopReason.INTERRUPTED}

    def row(self) -> dict[str, Any]:
        """JSON-able, for a capture; without what is not known."""
        known = {
            name: value
            for name, value in asdict(self).items()
            if not isinstance(value, float) or math.isfinite(value)
        }
        return known | {"reason": self.reason.value}


class Slug(str, Enum):
    """What a doubt is about: the name of its paragraph in docs/warnings.md."""

    IMPRECISE = "imprecise"
    CUT_SHORT = "cut-short"
    OUT_OF_TIME = "out-of-time"
    NOT_SERIALIZED = "not-serialized"
    UNSETTLED = "unsettled"
    LOST_RECORDS = "lost-records"
    NO_LAUNCH = "no-launch"
    UNKNOWN_EVENTS = "unknown-events"
    MISSING_LAYERS = "missing-layers"
    MISSING_CALLS = "missing-calls"
    CHANGED_WORK = "changed-work"
    OTHER_MODULES = "other-modules"
    NOT_JOINED = "not-joined"
    MODIFIED_IN_PLACE = "modified-in-place"
    SHARED_GENERATORS = "shared-generators"
    HIDDEN_GENERATOR = "hidden-generator"
    SEVERAL_THREADS = "several-threads"
    CHANGED_CALL = "changed-call"
    BACKWARD_IN_BLOCK = "backward-in-block"
    STEPS_MADE = "steps-made"
    OTHER_STEPS = "other-steps"
    LEFT_OUT_CALLS = "left-out-calls"
    SEVERAL_GPUS = "several-gpus"
    OVERLAP = "overlap"
    OTHER_LAUNCHES = "other-launches"
    GRAPH_KERNELS = "graph-kernels"
    SHORT_KERNELS = "short-kernels"
    CLOSURE = "closure"
    UNCORRECTED = "uncorrected"
    UNKNOWN_COSTS = "unknown-costs"
    UNSHOWN_COSTS = "unshown-costs"
    MOSTLY_TRACING = "mostly-tracing"


@dataclass(frozen=True)
class Doubt:
    """Something that makes numbers doubtful or incomplete: what it is about, and the facts that its
    sentence states, JSON-able.
    """

    slug: Slug
    facts: Mapping[str, Any]

    @classmethod
    def of(cls, slug: Slug, **facts: Any) -> Doubt:
        """A doubt with its facts by name."""
        return cls(slug, facts)

    def row(self) -> dict[str, Any]:
        """JSON-able, for a capture."""
        return {"slug": self.slug.value, "facts": dict(self.facts)}
