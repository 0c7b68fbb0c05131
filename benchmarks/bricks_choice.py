"""The rule (granularity and constructor) that one half of the models chooses, and how near it is on
the other half.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Rule = tuple[int, str]
Ratios = Mapping[Rule, Mapping[str, float]]
"""By granularity and rule, constructed over measured latency by model."""

SPLITS = 1000
_NEAR = math.log(1.05)


def geometric(ratios: Mapping[str, float], names: Sequence[str]) -> float | None:
    """Geometric mean over those of the models that have a ratio; None where none has."""
    logs = [math.log(ratios[name]) for name in names if name in ratios]
    return math.exp(sum(logs) / len(logs)) if logs else None


def titled(rule: Rule) -> str:
    """As tables name it."""
    return f"G = {rule[0]}, {rule[1]}"


def best_on(ratios: Ratios, names: Sequence[str]) -> Rule:
    """The rule whose geometric mean over these models is nearest to 1."""
    return min(ratios, key=lambda rule: abs(math.log(geometric(ratios[rule], names) or 1e9)))


def by_random_halves(ratios: Ratios, names: Sequence[str], seed: int = 0) -> dict[str, Any]:
    """The same choice and judgement by halves drawn at random, `SPLITS` times: how much of the
    stated one is luck of the split. Percentiles of what the judging halves say, the share of
    splits within 5 % of 1, and the share in which each rule was chosen.
    """
    if len(names) < 2:
        return {}
    draw = np.random.default_rng(seed)
    judged, chosen = [], Counter[str]()
    for _ in range(SPLITS):
        order = draw.permutation(len(names))
        choosing, judging = ([names[place] for place in order[start::2]] for start in (0, 1))
        rule = best_on(ratios, choosing)
        ratio = geometric(ratios[rule], judging)
        if ratio is not None:
            judged.append(math.log(ratio))
            chosen[titled(rule)] += 1
    shares = {rule: count / len(judged) for rule, count in chosen.most_common()}
    ends = np.exp(np.percentile(judged, (5, 25, 50, 75, 95))).tolist()
    return {
        "percentiles_5_25_50_75_95": [round(each, 4) for each in ends],
        "within_5_percent": float(np.mean(np.abs(judged) <= _NEAR)),
        "chosen": shares,
    }
