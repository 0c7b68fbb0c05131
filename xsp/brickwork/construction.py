"""A model's latency from the times of its bricks (DLBricks' constructor and what it left open)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from xsp.brickwork.cutting import Brick, Decomposition
from xsp.brickwork.samples import Record
from xsp.errors import GraphError, XspError

SUM, CRITICAL_PATH, OVERLAP, REPEATS = "sum", "critical path", "overlap", "repeats"

Times = Mapping[str, Record]
"""By digest of a brick, what was measured of it."""


@dataclass(frozen=True)
class Constructed:
    """A latency put together by a rule, with half of its 95 % interval, in ns.

    `terms` says how often each brick (by digest) counts. `covered` is the share of the bricks that
    has a time; the latency is NaN unless that is 1, and `missing` names layers that have none.
    """

    rule: str
    latency_ns: float
    half_width_ns: float
    terms: Mapping[str, int]
    covered: float
    missing: tuple[str, ...] = ()


def summed(cut: Decomposition, times: Times) -> Constructed:
    """All bricks one after another: P(M) = sum of P(S_i) (the paper's sequential rule)."""
    return _combined(SUM, cut.bricks, Counter(each.layer.digest for each in cut.bricks), times)


def repeating(cut: Decomposition, times: Times) -> Constructed | None:
    """The sum in which only the first occurrence of a brick counts with its own time, and the
    others with that of a second call, which finds the code of the first one in the caches. None
    where a brick that the model repeats has no second calls.
    """
    counts = Counter(each.layer.digest for each in cut.bricks)
    known = {digest: times[digest] for digest in counts if digest in times}
    seconds = {digest: record.again for digest, record in known.items() if counts[digest] > 1}
    if any(each is None for each in seconds.values()):
        return None
    found = replace(summed(cut, times), rule=REPEATS)
    if found.missing:
        return found
    terms = [(1, record) for record in known.values()]
    terms += [(counts[digest] - 1, each) for digest, each in seconds.items() if each is not None]
    widths = [count * each.half_width_ns for count, each in terms]
    return replace(
        found,
        latency_ns=sum(count * each.mean_ns for count, each in terms),
        half_width_ns=float(np.sqrt(np.sum(np.square(widths)))),
    )


def along_critical_path(cut: Decomposition, times: Times) -> Constructed:
    """Bricks that do not wait for each other side by side: the sum along the longest way (the
    paper's parallel rule). PyTorch runs layers one after another, so this is what a runtime that
    does not could reach.
    """
    absent = _absent(cut.bricks, times)
    if absent:
        return _unknown(CRITICAL_PATH, cut.bricks, absent)
    digests = [each.layer.digest for each in cut.bricks]
    mean_ns = {digest: times[digest].mean_ns for digest in set(digests)}
    _, path = cut.graph.critical_path([mean_ns[each] for each in digests])
    terms = Counter(digests[place] for place in path)
    return _combined(CRITICAL_PATH, [cut.bricks[place] for place in path], terms, times)


def overlapping(cut: Decomposition, paired: Sequence[Brick | None], times: Times) -> Constructed:
    """Each layer as what it adds to its predecessor: P(l_i-1, l_i) - P(l_i-1), where the two are a
    network, else P(l_i). So what two neighbours save each other (warm caches, fusion) is taken off
    (the paper's proposal for overlapping sequences).

    Raises XspError for bricks of more than one layer.
    """
    if any(each.end - each.begin != 1 for each in cut.bricks):
        raise XspError(
            f"overlaps are of single layers, but the granularity is {cut.granularity}; decompose "
            "the model with granularity 1"
        )
    terms: Counter[str] = Counter()
    for place, (single, pair) in enumerate(zip(cut.bricks, paired, strict=True)):
        if pair is None or pair.layer.digest not in times:
            terms[single.layer.digest] += 1
        else:
            terms[pair.layer.digest] += 1
            terms[cut.bricks[place - 1].layer.digest] -= 1
    return _combined(OVERLAP, cut.bricks, terms, times)


def between(
    measured: Mapping[int, tuple[Decomposition, Times]], cut: Decomposition, size: int
) -> Constructed:
    """Another batch size from two or more that were measured: each brick's time is interpolated
    between those of the brick at the same place in the next smaller and next larger size.

    Half intervals are interpolated too: what the time does between the two sizes is not in them.

    Raises XspError for a size outside those measured, and GraphError where the model has other
    bricks there.
    """
    sizes = sorted(measured)
    below = [each for each in sizes if each <= size]
    above = [each for each in sizes if each >= size]
    if not below or not above:
        raise XspError(
            f"batch size {size} lies outside the measured ones ({sizes}); times are interpolated "
            "between two sizes, not beyond them: measure one further out"
        )
    ends = [measured[each] for each in (below[-1], above[0])]
    for other, _ in ends:
        if [each.source for each in other.graph.layers] != [
            each.source for each in cut.graph.layers
        ]:
            raise GraphError(
                f"{cut.graph.name} has other operators at batch size {size} than at the measured "
                "ones, so bricks cannot be matched; measure this size"
            )
    low, high = (summed(*each) for each in ends)
    share = 0.0 if below[-1] == above[0] else (size - below[-1]) / (above[0] - below[-1])
    weights = np.array([1 - share, share])
    return Constructed(
        rule=f"between batch sizes {below[-1]} and {above[0]}",
        latency_ns=float(weights @ [low.latency_ns, high.latency_ns]),
        half_width_ns=float(np.hypot(*(weights * [low.half_width_ns, high.half_width_ns]))),
        terms=dict(low.terms),
        covered=min(low.covered, high.covered),
        missing=tuple(dict.fromkeys((*low.missing, *high.missing))),
    )


def _combined(
    rule: str, bricks: Sequence[Brick], terms: Mapping[str, int], times: Times
) -> Constructed:
    """Sum over the terms. Equal bricks are all off by the same, different ones independently."""
    absent = _absent(bricks, times)
    if absent:
        return _unknown(rule, bricks, absent)
    counts = np.array(list(terms.values()), dtype=np.float64)
    mean = np.array([times[each].mean_ns for each in terms])
    half = np.array([times[each].half_width_ns for each in terms])
    width = float(np.sqrt(np.sum((counts * half) ** 2)))
    return Constructed(rule, float(counts @ mean), width, dict(terms), 1.0)


def _absent(bricks: Sequence[Brick], times: Times) -> list[Brick]:
    return [each for each in bricks if each.layer.digest not in times]


def _unknown(rule: str, bricks: Sequence[Brick], absent: Sequence[Brick]) -> Constructed:
    covered = 1 - len(absent) / len(bricks)
    names = tuple(dict.fromkeys(each.layer.name for each in absent))
    return Constructed(rule, float("nan"), float("nan"), {}, covered, names)
