"""A single server with a queue, computed: who waits how long when arrivals and service times are
known.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Times = npt.NDArray[np.float64]


def departures(arrivals: npt.ArrayLike, services: npt.ArrayLike) -> Times:
    """When each of the customers of one server leaves, first come first served; arrays of one
    length, in any one unit.

    Lindley's recursion (D. V. Lindley, The theory of queues with a single server, 1952): a customer
    is served from max(his arrival, departure of the one before). With S the running sum of the
    service times that is d_i = S_i + max over j <= i of (a_j − S_{j−1}), without a loop.
    """
    arrived = np.asarray(arrivals, dtype=np.float64)
    served = np.cumsum(np.broadcast_to(np.asarray(services, dtype=np.float64), arrived.shape))
    before = np.concatenate([[0.0], served[:-1]])
    return np.asarray(served + np.maximum.accumulate(arrived - before))


def poisson_arrivals_s(rate_per_s: float, queries: int, seed: int) -> Times:
    """Arrival times whose distances are exponential with the mean 1 / rate, in seconds."""
    gaps = np.random.default_rng(seed).exponential(1 / rate_per_s, queries)
    return np.cumsum(gaps)
