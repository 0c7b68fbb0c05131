"""A server that is computed, not run: for searches without a clock."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from xsp.evaluation.scenarios.queueing import departures, poisson_arrivals_s
from xsp.evaluation.scenarios.search import Trial
from xsp.evaluation.scenarios.validity import beyond_bound


@dataclass
class SimulatedServer:
    """One server with a constant service time and Poisson arrivals (M/D/1), first come first
    served. Each test has arrivals of its own, which follow from `seed` and its number.
    """

    service_s: float
    bound_s: float
    queries: int
    share: float = 0.99
    seed: int = 0
    tests: int = field(default=0, init=False)

    def measure(self, rate_per_s: float) -> Trial:
        """A test at this rate, for `highest_rate`."""
        arrivals = poisson_arrivals_s(rate_per_s, self.queries, self.seed + self.tests)
        self.tests += 1
        latency_s = departures(arrivals, self.service_s) - arrivals
        latency_ns = np.rint(1e9 * latency_s).astype(np.int64)
        bound_ns = round(1e9 * self.bound_s)
        reasons = beyond_bound(latency_ns, self.share, bound_ns)
        late = int(np.count_nonzero(latency_ns > bound_ns))
        return Trial(rate_per_s, self.queries, late, not reasons, tuple(reasons))
