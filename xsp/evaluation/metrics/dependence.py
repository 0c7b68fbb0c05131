"""How much less queries tell than as many independent ones: latencies of a queue come in bursts."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import special

BLOCKS = {32: 0.95, 16: 0.90, 8: 0.80}
"""Numbers of blocks, and the confidence of the limit that is taken from each: few blocks are long,
and see bursts that many short ones do not, but tell them less surely."""
MOST_BLOCKS = max(BLOCKS)
SIGNIFICANT = 0.05
"""Chance of widening an interval of independent queries."""
FEWEST_PER_BLOCK = 4
"""With shorter blocks dependence between neighbours is not seen."""
FEWEST = MOST_BLOCKS * FEWEST_PER_BLOCK
"""Values that can show dependence."""

Series = npt.NDArray[np.float64]


def inflation(*series: npt.ArrayLike) -> float:
    """The variance of the mean of a series over what it were if its values were independent, at
    least 1; of several series of one length, the largest.

    By batch means (A. M. Law, Simulation Modeling and Analysis, 5th ed., section 9.5.3): the
    series, in order of time, is cut into b blocks, whose means are nearly independent. Their
    variance, times a block's length, over the variance of the values estimates the factor; as b - 1
    times this estimate over the factor is distributed as chi-square with b - 1 degrees of freedom,
    the upper confidence limit is taken, the largest of those by 32, 16 and 8 blocks. 1 where no
    series shows any dependence (chi-square at 5 %, 32 blocks), is long enough to, or varies.
    """
    every = [np.asarray(each, dtype=np.float64) for each in series]
    freedom = MOST_BLOCKS - 1
    # special.chdtri inverts the upper tail.
    by_chance = float(special.chdtri(freedom, SIGNIFICANT)) / freedom
    if all(_ratio(each, MOST_BLOCKS) <= by_chance for each in every):
        return 1.0
    return max(1.0, *(_limit(each, *how) for each in every for how in BLOCKS.items()))


def _limit(values: Series, blocks: int, confidence: float) -> float:
    freedom = blocks - 1
    return _ratio(values, blocks) * freedom / float(special.chdtri(freedom, confidence))


def _ratio(values: Series, blocks: int) -> float:
    length = len(values) // blocks
    if length < FEWEST_PER_BLOCK:
        return 0.0
    cut = values[: length * blocks].reshape(blocks, length)
    variance = float(cut.var())
    return length * float(cut.mean(axis=1).var(ddof=1)) / variance if variance else 0.0
