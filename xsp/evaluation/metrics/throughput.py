"""Samples answered in a second."""

from __future__ import annotations

import math

import numpy as np

from xsp.analysis.spans.statistics import plain_mean
from xsp.evaluation.metrics.estimate import Estimate, unknown
from xsp.evaluation.scenarios.scenario import Outcome

UNIT = "per_s"
BLOCKS = 20
FEWEST_PER_BLOCK = 2


def throughput(outcome: Outcome) -> Estimate:
    """Samples answered over the time from the first scheduled arrival to the last answer.

    The interval is by batch means (Law, section 9.5.3): answers, in order of time, are cut into 20
    blocks, and Student's interval of the time that a sample takes in each is turned into one of the
    rate. In a batched sweep sizes follow one another; `by_batch` has the throughput of each.
    """
    if outcome.scenario == "batched":
        return unknown(UNIT, "a sweep has a throughput for each batch size")
    answered = outcome.answered
    if not answered.any():
        return unknown(UNIT, "no query was answered")
    order = np.argsort(outcome.completed_ns[answered], kind="stable")
    completed = outcome.completed_ns[answered][order]
    samples = outcome.samples[answered][order]
    begin = int(outcome.scheduled_ns[answered].min())
    lasted_s = float(completed[-1] - begin) / 1e9
    if lasted_s <= 0:
        return unknown(UNIT, "the answers took no time that the clock shows")
    rate = float(samples.sum()) / lasted_s
    if len(completed) < BLOCKS * FEWEST_PER_BLOCK:
        return Estimate(rate, UNIT, reason=f"{len(completed)} queries have no interval")
    last = np.linspace(0, len(completed), BLOCKS + 1).astype(np.int64)[1:]
    times = np.diff(np.concatenate([[begin], completed[last - 1]])) / 1e9
    counts = np.diff(np.concatenate([[0], np.cumsum(samples)[last - 1]]))
    half = float(plain_mean((times / counts)[:, None])[1][0]) * rate
    low = rate / (1 + half)
    high = rate / (1 - half) if half < 1 else math.inf
    return Estimate(rate, UNIT, low, high)
