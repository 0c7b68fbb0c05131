"""What a model would take if something about it were otherwise, on its corrected timeline.

A sum of savings is wrong where the host or another stream is the limit; a replay of the whole
timeline is not (docs/replay.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import hypot, inf
from typing import TYPE_CHECKING, Any

import numpy as np

from xsp.analysis.spans.statistics import trimmed
from xsp.bounds.as_if import latency_ns
from xsp.bounds.changes import change_of
from xsp.bounds.otherwise import Otherwise
from xsp.bounds.recorded import Recording, recording

if TYPE_CHECKING:
    from xsp.analysis.profile_data import ProfileData

RUNS = 8
"""Runs that are replayed; the interval is that of their mean."""


@dataclass(frozen=True)
class WhatIf:
    """A prediction: `latency_ms` measured, `predicted_ms` with the change, `gain_ms` between them
    with half of its 95 % interval.
    """

    latency_ms: float
    gain_ms: float
    half_width_ms: float
    calls: int

    @property
    def predicted_ms(self) -> float:
        """The latency with the change."""
        return self.latency_ms - self.gain_ms

    @property
    def speedup(self) -> float:
        """How many times faster."""
        return self.latency_ms / self.predicted_ms if self.predicted_ms > 0 else inf

    def __str__(self) -> str:
        return (
            f"{self.predicted_ms:.3f} ms instead of {self.latency_ms:.3f}: "
            f"{self.gain_ms:+.3f} ± {self.half_width_ms:.3f} ms gained"
        )


def what_if(profile: ProfileData, **changed: Any) -> WhatIf:
    """See `Profile.what_if`, whose arguments these are."""
    return predicted(profile, recording(profile, RUNS), Otherwise.of(**changed))


def predicted(profile: ProfileData, recorded: Recording, asked: Otherwise) -> WhatIf:
    """The prediction for one change, from calls that are corrected already.

    Raises XspError for a name that nothing has, and for a factor that is not above 0.
    """
    call = recorded.calls[-1]
    asked.check(set(call.layers["name"]), set(call.op_kernel.tolist()))
    left = []
    for call in recorded.calls:
        after = latency_ns(call.run, change_of(call, recorded, asked), recorded.typical)
        left.append(after / call.run.latency_ns)
    share, half = (float(each) for each in trimmed(left))
    latency = profile.latency_ms
    gain = latency * (1 - share)
    # The corrected timeline is off by the closure error, and so, in proportion, is what is read
    # off it.
    closure = profile.closure_error
    error = float(closure[["low", "high"]].iloc[-1].abs().max()) if len(closure) else 0.0
    spread = latency * float(np.nan_to_num(half))
    of_latency = float(np.nan_to_num(profile.latency_ci_ms)) * (1 - share)
    return WhatIf(latency, gain, hypot(spread, of_latency, gain * error), len(left))
