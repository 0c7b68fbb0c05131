"""How much less queries tell than as many independent ones: latencies of a queue come in bursts."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

BLOCKS = 32
FEWEST_PER_BLOCK = 4
"""With shorter blocks dependence between neighbours is not seen."""


def inflation(series: npt.ArrayLike) -> float:
    """The variance of the mean of a series over what it were if its values were independent, at
    least 1.

    By batch means (A. M. Law, Simulation Modeling and Analysis, 5th ed., section 9.5.3): the
    series, in order of time, is cut into 32 blocks; their means are nearly independent, so their
    variance, times the block's length, over the variance of the values is the factor. 1 where the
    series is too short to tell, or constant.
    """
    values = np.asarray(series, dtype=np.float64)
    length = len(values) // BLOCKS
    if length < FEWEST_PER_BLOCK:
        return 1.0
    blocks = values[: length * BLOCKS].reshape(BLOCKS, length)
    variance = float(blocks.var())
    if variance == 0:
        return 1.0
    return max(1.0, length * float(blocks.mean(axis=1).var(ddof=1)) / variance)
