"""A number with its 95 % interval, or the reason why there is none."""

from __future__ import annotations

import math
from dataclasses import dataclass

NAN = math.nan


@dataclass(frozen=True)
class Estimate:
    """A value, and its 95 % interval where one is known; NaN is unknown.

    `reason` says why there is no value, or no interval. `unit` is as in names: ns, per_s, bytes.
    """

    value: float
    unit: str
    low: float = NAN
    high: float = NAN
    reason: str = ""

    @property
    def known(self) -> bool:
        """Whether there is a value."""
        return not math.isnan(self.value)

    def __str__(self) -> str:
        if not self.known:
            return f"unknown: {self.reason}"
        text = f"{self.value:.6g} {self.unit}"
        if math.isnan(self.low):
            return f"{text} ({self.reason})" if self.reason else text
        return f"{text} [{self.low:.6g}, {self.high:.6g}]"


def unknown(unit: str, reason: str) -> Estimate:
    """No value, and why."""
    return Estimate(NAN, unit, reason=reason)
