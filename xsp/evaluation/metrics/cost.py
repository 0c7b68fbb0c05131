"""What a million inputs cost."""

from __future__ import annotations

from xsp.errors import EvaluationError
from xsp.evaluation.metrics.estimate import Estimate, unknown

_SECONDS_PER_HOUR = 3600.0
_MILLION = 1e6


def cost_per_million(
    throughput: Estimate, price_per_hour: float, currency: str = "price"
) -> Estimate:
    """The price of the hours that a million inputs take at this throughput (per second), in the
    price's currency, which is its unit; the machine is paid for and busy all the time.

    Raises EvaluationError for a price that is not above 0.
    """
    if not price_per_hour > 0:
        raise EvaluationError(f"a price per hour must be > 0, not {price_per_hour}")
    if not throughput.known:
        return unknown(currency, throughput.reason)
    price = _MILLION / _SECONDS_PER_HOUR * price_per_hour
    return Estimate(
        price / throughput.value,
        currency,
        price / throughput.high,
        price / throughput.low,
        throughput.reason,
    )
