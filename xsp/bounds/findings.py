"""What could be done about a model's time, with what it would bring: Benanza's six questions.

Every finding is predicted by a replay of the corrected timeline (`what_if`), so that it says what
the model gains, not what a layer loses. Needs no torch; what a performance database knows makes it
more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from xsp.bounds.asker import Asker
from xsp.bounds.finding import Finding
from xsp.bounds.questions.conversions import conversions
from xsp.bounds.questions.framework import framework
from xsp.bounds.questions.fusion import fusion
from xsp.bounds.recorded import recording
from xsp.errors import XspError

if TYPE_CHECKING:
    from xsp.analysis.profile_data import ProfileData
    from xsp.bounds.lower_bound import LowerBound

RUNS = 4
"""Runs that are replayed for each finding."""
MOST = 5
"""Findings in a "try" section."""
LEAST_SHARE = 0.01
"""Of the latency that a finding must promise."""
MOST_LAYERS = 50_000
"""That a "try" section asks about. Of 200,000 the questions take 20 s, and showing a profile 5."""

_KEPT: WeakKeyDictionary[ProfileData, list[Finding]] = WeakKeyDictionary()


def try_first(profile: ProfileData) -> list[Finding]:
    """At most five findings by predicted gain, of what the profile alone tells; computed once for
    each profile. Empty where it has no corrected timeline, or is too large (`is_asked`).
    """
    if not is_asked(profile):
        return []
    if profile not in _KEPT:
        try:
            _KEPT[profile] = findings(profile)[:MOST]
        except XspError:
            _KEPT[profile] = []
    return _KEPT[profile]


def is_asked(profile: ProfileData) -> bool:
    """Whether a "try" section asks about this profile: if it has at most `MOST_LAYERS` layers."""
    return len(profile.table("layers")) <= MOST_LAYERS


def findings(profile: ProfileData, bound: LowerBound | None = None) -> list[Finding]:
    """Answers to the six questions, by predicted gain, the largest first.

    Those that promise less than `LEAST_SHARE` of the latency, or no more than their own interval,
    are left out. With `bound` (`xsp.analysis.lower_bound`) potential, parallel layers, algorithms
    and layouts are answered too.

    Raises XspError for a profile without a corrected timeline.
    """
    asker = Asker(profile, recording(profile, RUNS))
    found = [*framework(asker), *conversions(asker), *fusion(asker)]
    if bound is not None:
        found += _of_bound(asker, bound)
    worth = [each for each in found if _is_worth(each, profile.latency_ms)]
    return sorted(worth, key=lambda each: -each.gain_ms)


def _of_bound(asker: Asker, bound: LowerBound) -> list[Finding]:
    """What only a lower bound tells. A report, which has none, imports nothing of it."""
    from xsp.bounds.questions.algorithms import algorithms
    from xsp.bounds.questions.layouts import layouts, tensor_cores
    from xsp.bounds.questions.potential import parallel, potential

    found = [*potential(bound), *parallel(bound), *algorithms(asker, bound)]
    return [*found, *layouts(asker, bound), *tensor_cores(asker, bound)]


def _is_worth(finding: Finding, latency_ms: float) -> bool:
    return finding.gain_ms > max(LEAST_SHARE * latency_ms, finding.half_width_ms)
