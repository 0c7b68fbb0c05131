"""Rates of verdicts on pools of runs (regression_pools.py), and those rates against the bounds that
xsp sets itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from regression_pools import BASE, SAME, SLOWDOWNS, VARIANTS

from xsp.analysis.spans.statistics import trimmed
from xsp.comparing.spread import among_sessions, spread
from xsp.comparing.targets import LEAST_ROUNDS
from xsp.comparing.verdict import REGRESSION, UNDECIDED, paired_verdict, verdicts

STORED_RUNS = 30
SESSIONS = 5
LEAST_SESSIONS = 3
"""Sessions from which on the spread of processes is known."""
MUTATED, NAMED = 20, 19

Sample = npt.NDArray[np.float64]
Pool = dict[str, Sample]


def power(measured: list[dict[str, Any]], trials: int) -> dict[str, Any]:
    """Rates of verdicts by variant, threshold and way of comparing."""
    pools: list[Pool] = [
        {variant: np.array(runs, dtype=np.float64) for variant, runs in one["latencies_ns"].items()}
        for one in measured
    ]
    rounds = [len(one[BASE]) for one in pools]
    runs = min(STORED_RUNS, *rounds)
    random = np.random.default_rng(0)

    def rates(variant: str, share: float) -> dict[str, float]:
        turns = _rounds_needed(pools, share / 2)
        stored = [_stored(pools, variant, runs, random) for _ in range(trials)]
        in_turn = [_in_turn(pools, variant, turns, random) for _ in range(trials)]
        return {"threshold": share / 2, "rounds in turn": turns} | _rates(
            stored, in_turn, share / 2
        )

    return {
        "layer": measured[0]["layer"],
        "delay": measured[0]["delay"],
        "usual_ms": [round(one["usual_ms"], 4) for one in measured],
        "noise": [round(float(one[BASE].std() / one[BASE].mean()), 4) for one in pools],
        "rounds": rounds,
        "runs stored": runs,
        "sessions": min(SESSIONS, len(pools) - 1),
        "spread": round(spread([[_time(one[BASE]) for one in pools]])[0], 4),
        "windows": [count // runs for count in rounds],
        "achieved": {
            variant: round(_achieved(pools, variant), 4) for variant in VARIANTS if variant != BASE
        },
        "detected": {
            variant: rates(variant, share) for variant, share in VARIANTS.items() if share
        },
        "false alarms": {f"{share / 2:g}": rates(SAME, share) for share in SLOWDOWNS},
    }


def _rounds_needed(pools: list[Pool], threshold: float) -> int:
    """Rounds after which the ratio of two runs of the same is known to a quarter of the
    threshold.
    """
    before, after = (np.concatenate([each[name] for each in pools]) for name in (BASE, SAME))
    found = paired_verdict(before, after)
    width = (found.high - found.low) / 2 / (threshold / 4)
    return int(min(max(LEAST_ROUNDS, np.ceil(len(before) * width**2)), max(len(before) // 2, 2)))


Stored = tuple[list[Sample], Sample]
InTurn = tuple[Sample, Sample]


def _stored(pools: list[Pool], variant: str, runs: int, random: np.random.Generator) -> Stored:
    """Consecutive runs of each session and of the candidate, all of different processes; without a
    change the candidate is of the same variant.
    """
    *earlier, own = random.choice(
        len(pools), min(SESSIONS, len(pools) - 1) + 1, replace=False
    ).tolist()
    every = [pools[each][BASE] for each in earlier] + [
        pools[own][BASE if variant == SAME else variant]
    ]
    begins = [int(random.integers(len(each) - runs + 1)) for each in every]
    *sessions, candidate = (
        each[begin : begin + runs] for each, begin in zip(every, begins, strict=True)
    )
    return sessions, candidate


def _in_turn(pools: list[Pool], variant: str, rounds: int, random: np.random.Generator) -> InTurn:
    """Rounds in the order in which they were made, some left out."""
    before, after = (np.concatenate([each[name] for each in pools]) for name in (BASE, variant))
    which = np.sort(random.choice(len(before), rounds, replace=False))
    return before[which], after[which]


def _achieved(pools: list[Pool], variant: str) -> float:
    """The slow-down that the delay came to: ratios within rounds."""
    return float(trimmed(np.concatenate([one[variant] / one[BASE] for one in pools]))[0]) - 1


def _rates(stored: list[Stored], in_turn: list[InTurn], threshold: float) -> dict[str, float]:
    single = [(sessions[-1], candidate) for sessions, candidate in stored]
    alone = verdicts(
        *(np.stack(side, axis=1) for side in zip(*single, strict=True)), threshold=threshold
    )
    among = [
        among_sessions(
            alone[at], [[_time(each) for each in sessions]], _time(candidate), threshold=threshold
        )
        for at, (sessions, candidate) in enumerate(stored)
    ]
    names = {
        "stored": list(alone.names),
        "sessions": [found.name for found in among],
        "in turn": [paired_verdict(a, b, threshold=threshold).name for a, b in in_turn],
    }
    rates = {}
    for way, words in names.items():
        rates[way] = _share([word == REGRESSION for word in words])
        rates[f"{way}, undecided"] = _share([word == UNDECIDED for word in words])
    for way, trials in (("stored", single), ("in turn", in_turn)):
        rates[f"{way}, plain rule"] = _share(
            [b.mean() / a.mean() > 1 + threshold for a, b in trials]
        )
    return rates


def _time(runs: Sample) -> float:
    return float(trimmed(runs)[0])


def _share(hits: list[Any]) -> float:
    return round(float(np.mean(hits)), 4)


def bounds(report: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What must hold: what is bounded, its value (None where it was not measured), the bound, and
    whether it is met.
    """
    for name in report["pools"]:
        found = report["power"].get(name, {})
        rates = found.get("detected", {}) | found.get("false alarms", {})
        for way in ("stored", "sessions"):
            known = way == "stored" or found.get("sessions", 0) >= LEAST_SESSIONS
            five, none = (rates.get(key, {}).get(way) if known else None for key in ("5%", "0.025"))
            yield _row(f"{name}: 5 % found, {way}", five, least=0.95)
            yield _row(f"{name}: false alarms at 2.5 %, {way}", none, most=0.01)
        two, none = (rates.get(key, {}).get("in turn") for key in ("2%", "0.01"))
        yield _row(f"{name}: 2 % found, in turn", two, least=0.9)
        yield _row(f"{name}: false alarms at 1 %, in turn", none, most=0.01)
    rows = report["localisation"].get("mutations", [])
    twenty = [row["named"] for row in rows if not row["kernels"]]
    yield _row(
        "mutations named first, of 20", sum(twenty) if len(twenty) == MUTATED else None, least=NAMED
    )


def _row(
    what: str, value: float | None, least: float = 0.0, most: float = np.inf
) -> dict[str, Any]:
    bound = {"at least": least} if least else {"at most": most}
    return {
        "bound": what,
        "value": value,
        **bound,
        "met": value is not None and least <= value <= most,
    }


def sentence(row: dict[str, Any]) -> str:
    """`met      ResNet-50: 5 % found, stored: 0.97, at least 0.95`."""
    [(kind, bound)] = [(key, row[key]) for key in ("at least", "at most") if key in row]
    if row["value"] is None:
        return f"UNKNOWN  {row['bound']}: not measured, {kind} {bound:g}"
    return (
        f"{'met' if row['met'] else 'NOT MET':<8} {row['bound']}: {row['value']:g}, {kind} "
        f"{bound:g}"
    )
