"""The verdict on a test's time: that of two processes' runs, as far as the spread of processes allows it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from xsp.analysis.comparing.sentences import Whole, narrowing
from xsp.analysis.comparing.sessions import among_sessions
from xsp.analysis.comparing.verdict import UNDECIDED, Verdict, runs_needed, verdict
from xsp.regression.baselines import Baseline
from xsp.regression.sessions import knows_spread, model_times, versions


@dataclass(frozen=True)
class Decision:
    """`verdict` is on one metric of the model, whose times are `a_ms` in the baseline and `b_ms` now.

    `by_runs` says that the runs alone decided: then more of them can settle what is undecided. `runs` are those of the
    smaller sample.
    """

    verdict: Verdict
    a_ms: float
    b_ms: float
    by_runs: bool
    runs: int

    @property
    def open(self) -> bool:
        """Whether more rounds could tell what these did not."""
        return self.by_runs and self.verdict.name == UNDECIDED

    @property
    def whole(self) -> Whole:
        """As the verdict on the model that a comparison tells."""
        sessions = "more sessions (--xsp-add) or runs in turn narrow it"
        more = narrowing(self.runs, runs_needed()) if self.by_runs else sessions
        return Whole(self.verdict, self.a_ms, self.b_ms, more)


def decide(own: Baseline, measured: Baseline, metric: str, threshold: float) -> Decision | None:
    """The verdict on `metric` at this threshold, a share; None where one of the two has not measured it."""
    samples = [model_times(each.profile, metric) for each in (own, measured)]
    if not all(map(len, samples)):
        return None
    within = verdict(*samples, threshold=threshold)
    earlier = versions(own.sessions, metric)
    time_ms = measured.sessions[-1].ms[metric]
    found = among_sessions(within, earlier, time_ms, threshold=threshold)
    usual_ms = float(np.exp(np.log(earlier[-1]).mean()))
    undecided_alone = within.name == UNDECIDED
    by_runs = undecided_alone or not knows_spread(own.sessions, metric)
    return Decision(found, usual_ms, time_ms, by_runs, min(map(len, samples)))
