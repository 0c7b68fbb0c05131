"""How well the sums of bricks and the whole models are known, while they are being measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from xsp.brickwork.rounds import MODEL
from xsp.brickwork.samples import Key, Record, is_whole


def wide(records: Mapping[Key, Record], sums: Sequence[Counter[str]], target: float) -> set[str]:
    """Digests of what is not known well enough: all bricks of a sum whose half interval is wider
    than `target` of it, and whole models of which this is true.
    """
    mine = [each for each in records.values() if each.caches == MODEL and each.samples_ns]
    bricks = {
        each.layer.digest: (each.mean_ns, each.half_width_ns)
        for each in mine
        if not is_whole(each.algorithm)
    }
    found = {digest for each in sums if not _of_sum(each, bricks) <= target for digest in each}
    wholes = [each for each in mine if is_whole(each.algorithm)]
    return found | {
        each.layer.digest for each in wholes if not each.half_width_ns <= target * each.mean_ns
    }


def _of_sum(counts: Mapping[str, int], known: Mapping[str, tuple[float, float]]) -> float:
    """Half interval of a sum over the sum; of equal bricks all are off by the same."""
    rows = [(times, *known[digest]) for digest, times in counts.items() if digest in known]
    if not rows:
        return 0.0
    times, mean, half = np.array(rows).T
    error = np.sqrt(np.sum((times * half) ** 2))
    return float(error / np.sum(times * mean))
