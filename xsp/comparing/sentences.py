"""What a comparison says: the guilty layer, the model, other layers, counts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from xsp.comparing import phrases
from xsp.comparing.causes import Cause, Kind
from xsp.comparing.differences import Differences
from xsp.comparing.verdict import IMPROVED, NEUTRAL, REGRESSION, UNDECIDED, Verdict

_SAID = 8
"""Causes that are said; the rest is counted."""
_MANY, _MOST = 4, 0.75
"""Slower layers, in number and as a share, from which on one of them alone is not accused."""


@dataclass(frozen=True)
class Whole:
    """The verdict on the model's latency, both latencies in ms, and what to do where it is
    undecided.
    """

    verdict: Verdict
    a_ms: float
    b_ms: float
    more: str = "more runs narrow it"


def narrowing(runs: int, least: int) -> str:
    """What to do where so many runs left it undecided, of which at least so many can be
    significant.
    """
    few = (
        f"; with {runs} runs nothing can be significant, {least} are needed" if runs < least else ""
    )
    return f"more runs narrow it{few}"


def first(ranked: Sequence[Cause], whole: Verdict, found: Differences) -> Iterator[str]:
    """The most guilty layer and why; else where most of the difference is, or that there is none.

    Where most layers are slower and nothing else changed, that is said before one of them is named.
    """
    layers = found.pairs[(found.pairs["level"] == "LAYER") & found.pairs["ratio"].notna()]
    if ranked:
        slow = int((layers["verdict"] == REGRESSION).sum())
        if ranked[0].kind is Kind.SLOWER and slow >= max(_MANY, _MOST * len(layers)):
            yield (
                f"{slow} of {len(layers)} layers are slower: it is the machine, or what they "
                "share, not one of them."
            )
        yield ranked[0].sentence
        return
    cost = layers["b_ms"] - layers["a_ms"]
    if whole.name == REGRESSION and (cost > 0).any():
        row = layers.iloc[int(cost.to_numpy().argmax())]
        label = phrases.layer(row["name_b"], row["type_b"], row["phase"])
        more = phrases.milliseconds(float(cost.max()))
        yield (
            f"{label[0].upper()}{label[1:]} has most of it, {more} more, but no layer alone is "
            "significantly slower."
        )
        return
    if not (found.pairs["level"] == "LAYER").any():
        yield "No layers were traced, so only the whole model is compared."
        return
    timed = ", and none is significantly slower" if layers["verdict"].ne("").any() else ""
    yield f"No layer changed{timed}."


def of_model(whole: Whole, refused: str | None) -> str:
    """Both latencies and what is to be thought of them, or why they are not compared."""
    if refused is not None:
        return f"{refused[0].upper()}{refused[1:]}."
    found = whole.verdict
    took = (
        "The model takes "
        f"{phrases.times(whole.a_ms, whole.b_ms, found.ratio, found.low, found.high)}"
    )
    if found.name == UNDECIDED:
        return f"{took}: undecided, the runs differ too much to tell; {whole.more}."
    words = {
        REGRESSION: "a regression",
        IMPROVED: "an improvement",
        NEUTRAL: "within the threshold",
    }
    return f"{took}: {words[found.name]}."


def others(ranked: Sequence[Cause]) -> Iterator[str]:
    """The other causes; consequences only as a number."""
    rest = [cause for cause in ranked[1:] if cause.kind is not Kind.CONSEQUENCE]
    yield from (cause.sentence for cause in rest[: _SAID - 1])
    if len(rest) > _SAID - 1:
        yield f"{len(rest) - _SAID + 1} more layers differ."
    if follow := sum(cause.kind is Kind.CONSEQUENCE for cause in ranked[1:]):
        yield (
            f"{follow} more {'layer differs' if follow == 1 else 'layers differ'} because of other "
            "inputs."
        )


def of_counts(counts: pd.DataFrame) -> Iterator[str]:
    """The counts of one run that differ."""
    said = [
        f"{str(name).replace('_', ' ')} {_amount(str(name), a)} → {_amount(str(name), b)}"
        for name, a, b in counts.itertuples(index=False)
        if a != b
    ]
    if said:
        yield f"In one run: {', '.join(said)}."


def _amount(name: str, value: int) -> str:
    return phrases.bytes_(value) if name.endswith("_bytes") else str(value)
