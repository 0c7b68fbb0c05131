"""The last section of a summary: at most five things to try, by what they would bring."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from xsp.bounds.findings import try_first
from xsp.types import Level, Status
from xsp.words import numbers

if TYPE_CHECKING:
    from xsp.analysis.profile_data import ProfileData

_CHECK = 90
"""Characters of a call that is printed; longer ones are in the finding."""


class Suggestion(NamedTuple):
    """One line of the section: what to do, what tells it and what it would bring, and the call that
    predicts it again.
    """

    advice: str
    gain: str
    evidence: str
    check: str

    @property
    def sentence(self) -> str:
        """All of it, for text."""
        return f"{self.gain}: {self.advice}. {self.evidence}. Check: {self.check}"


def suggestions(prof: ProfileData) -> list[Suggestion]:
    """The findings of most gain as words; none where nothing promises anything, or where the
    profile has no corrected timeline.
    """
    rows = prof.levels
    traced = rows.loc[rows["status"] == Status.TRACED.value, "level"]
    if Level.LAYER.name not in set(traced):
        return []
    decimals = numbers.decimals_for(prof.latency_ms)
    found = []
    for place, finding in enumerate(try_first(prof)):
        gain = numbers.milliseconds(finding.gain_ms, decimals)
        interval = numbers.plus_minus(finding.half_width_ms, decimals)
        short = finding.check
        if len(short) > _CHECK:
            short = f"prof.what_if(**prof.findings()[{place}].changed)"
        found.append(Suggestion(finding.advice, f"−{gain} {interval} ms", finding.evidence, short))
    return found
