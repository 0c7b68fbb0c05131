"""The end of the time that a profile may take: one for the import of what measures, where the call
makes it, warm-up, structure run, rounds and all that comes after them.
"""

from __future__ import annotations

import math
import time

from xsp.importing import just_imported_s
from xsp.measuring.options import Options

WARM_UP_SHARE = 1 / 3
"""Of the time, for runs that are not used."""

RESERVED_SHARE = 0.4
"""Of what is left when the rounds begin, at most, kept from them for the run that records memory.
"""

TOLERANCE = 0.1
"""Share of the whole time by which a phase may end too late and is made nevertheless."""

FIT_S, FIT_S_PER_EVENT = 0.2, 2e-6
TABLES_S, TABLES_S_PER_EVENT = 0.1, 4e-6
"""What the fit of costs, and tables, take for the events of all rounds, on a slow host."""

LOOPS_S, LOOPS_ON_HOST_S = 0.5, 0.15
"""What the tracers' costs in tight loops take, and without the level of kernels."""


class Deadline:
    """When a profile's time is over. Made when it begins; never over where the number of rounds is
    given, or a stopping rule.
    """

    def __init__(self, budget_s: float, spent_s: float = 0.0) -> None:
        self.budget_s = budget_s
        self._begin = time.perf_counter() - spent_s
        self._reserved_s = 0.0
        self._loops_s = LOOPS_S

    @classmethod
    def of(cls, options: Options) -> Deadline:
        """The deadline of a profile that begins now."""
        is_open = options.iterations is not None or options.stop is not None
        return cls(math.inf if is_open else options.budget_s, just_imported_s())

    @property
    def is_limited(self) -> bool:
        """Whether it ever is over."""
        return not math.isinf(self.budget_s)

    @property
    def elapsed_s(self) -> float:
        """Seconds since the profile began."""
        return time.perf_counter() - self._begin

    @property
    def left_s(self) -> float:
        """Seconds until the time is over, below 0 after that."""
        return self.budget_s - self.elapsed_s

    def reserve(self, seconds: float) -> None:
        """Keep as much from the rounds for a phase after them; nothing if it would be much of what
        is left, since rounds matter more.
        """
        self._reserved_s = seconds if seconds <= RESERVED_SHARE * self.left_s else 0.0

    def without_kernels(self) -> None:
        """No kernels are traced, and none launched in tight loops."""
        self._loops_s = LOOPS_ON_HOST_S

    def release(self) -> None:
        """The rounds are over."""
        self._reserved_s = 0.0

    def left_for_rounds_s(self, events: int) -> float:
        """Seconds that rounds with so many events so far may still take."""
        tables_s = TABLES_S + TABLES_S_PER_EVENT * events
        return self.left_s - self._reserved_s - tables_s - self.corrected_s(events)

    def corrected_s(self, events: int) -> float:
        """Seconds that all of the correction takes, tight loops and fit."""
        return self._loops_s + fit_s(events)

    def fits(self, seconds: float) -> bool:
        """Whether a phase of this length ends in time, or too late by no more than the
        tolerance.
        """
        return seconds <= self.left_s - self._reserved_s + TOLERANCE * self.budget_s


def fit_s(events: int) -> float:
    """Seconds that it takes, at most, to fit costs to so many events."""
    return FIT_S + FIT_S_PER_EVENT * events
