"""Two targets measured in turn in one process: the only way to see one per cent on a machine that
drifts.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from xsp.analysis.profile_data import ProfileData
from xsp.analysis.spans.statistics import trimmed
from xsp.capture.run import latency_ns
from xsp.comparing.comparable import comparable
from xsp.comparing.comparison import Comparison, compare_data
from xsp.comparing.sentences import Whole, narrowing
from xsp.comparing.verdict import ALPHA, Verdict, paired_verdict, rounds_needed
from xsp.errors import TargetError
from xsp.levels._native.signals import held
from xsp.measuring.executor import Executor
from xsp.measuring.options import Options
from xsp.measuring.profiling import measure_target
from xsp.measuring.progress import bar
from xsp.measuring.ranks import Ranks
from xsp.measuring.state import RandomState
from xsp.measuring.target import Target, target_of
from xsp.measuring.warmup import warm_up

THRESHOLD = 0.01
BUDGET_S = 20.0
LEAST_ROUNDS, MOST_ROUNDS = 20, 2000
LADDER_ROUNDS = 12
"""Rounds of the ladder on each side: with fewer no layer of some hundred can be significant."""


def compare_targets(
    a: Callable[..., Any],
    b: Callable[..., Any],
    *args: Any,
    iterations: int | None = None,
    budget_s: float | None = None,
    threshold: float = THRESHOLD,
    alpha: float = ALPHA,
    levels: str | None = None,
    localise: bool = True,
    warmup: int | None = None,
    seed: int = 0,
    progress: bool | None = None,
    alone: bool = False,
    **kwargs: Any,
) -> Comparison:
    """Whether `b(*args, **kwargs)` is slower than `a(*args, **kwargs)`, and where, measured in turn
    in this process.

    First both run unprofiled in rounds, one after the other in random order, until the ratio of
    their latencies is known to within a quarter of `threshold`; the verdict is on the rounds'
    ratios. Then one ladder of each finds the layers, library calls and kernels that differ. Models
    are left as they were; callables are simply called again.

    Args:
        a: the baseline, a torch.nn.Module or any callable.
        b: the candidate.
        *args: the arguments of both.
        **kwargs: the keyword arguments of both.
        iterations: rounds; by default as many as needed, at least 20.
        budget_s: seconds for the rounds when `iterations` is not given; 20 by default.
        threshold: slow-down that matters, as a share; half of the smallest that is to be found.
        alpha: significance that a difference needs.
        levels: levels to trace, such as "M/L/K"; all by default.
        localise: whether to run the ladders; without, only the model's latency is compared.
        warmup: warm-up runs of each; by default until the latency has settled.
        seed: seed of the orders within rounds.
        progress: show progress bars; by default only when it takes long and someone can see it.
        alone: whether only this rank of a distributed program compares; otherwise all of them must,
            and make the same runs.

    Raises TargetError if a target cannot be called or an option cannot be, and whatever the targets
    raise.

    """
    budget = BUDGET_S if budget_s is None else budget_s
    options = Options.of(
        levels=levels if localise else "M",
        iterations=iterations,
        warmup=warmup,
        budget_s=budget,
        seed=seed,
        progress=progress,
        alone=alone,
    )
    if not 0 < threshold < np.inf:
        raise TargetError(f"threshold must be a share > 0, such as 0.01, not {threshold!r}")
    if not 0 < alpha < 1:
        raise TargetError(
            f"alpha must be a probability between 0 and 1, such as {ALPHA}, not {alpha!r}"
        )
    # Both start from one random state, so that dropout and the like draw the same numbers.
    state = RandomState.current()
    targets = (target_of(a, args, kwargs), target_of(b, args, kwargs))
    in_turn = measured_in_turn(targets, options, threshold, alpha, state)
    rounds = LADDER_ROUNDS if localise else 2
    ladder = replace(options, iterations=rounds, warmup=1, serialize=False)
    captures = [measure_target(target, ladder, state) for target in targets]
    mine, other = (comparable(ProfileData(capture)) for capture in captures)
    return compare_data(mine, other, threshold, alpha, None, in_turn)


def measured_in_turn(
    targets: tuple[Target, Target],
    options: Options,
    threshold: float,
    alpha: float,
    state: RandomState | None = None,
) -> Whole:
    """Unprofiled runs of both targets in turn, and the verdict on them."""
    latencies = latencies_in_turn(targets, options, threshold / 4, state)
    found = paired_verdict(*latencies.T, threshold=threshold, alpha=alpha)
    a_ms = float(trimmed(latencies[:, 0])[0]) / 1e6
    return Whole(found, a_ms, a_ms * found.ratio, narrowing(len(latencies), rounds_needed(alpha)))


def latencies_in_turn(
    targets: tuple[Target, Target],
    options: Options,
    half_width: float,
    state: RandomState | None = None,
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Latencies in ns, a row per round, a column per target.

    Rounds go on until the interval of the ratio is narrower than `half_width` on each side. That
    rule looks at the width and not at the ratio, so it does not favour a verdict.
    """
    order = random.Random(options.seed)  # noqa: S311 - an order of experiments, not a secret
    begin = time.perf_counter()
    with held(), ExitStack() as stack:
        ranks = Ranks.together(alone=options.alone)
        ranks.same("options", (options.iterations, options.warmup, options.seed))
        executors = [Executor(target, state, ranks=ranks) for target in targets]
        for executor in executors:
            stack.enter_context(executor.restored_afterwards())
        for executor in executors:
            run = partial(_latency_ns, executor)
            warm_up(run, options.warmup, options.budget_s / 6, ranks.any)
        rounds: list[list[int]] = []
        shown = stack.enter_context(
            bar("xsp: rounds in turn", options.iterations, options.progress)
        )
        while ranks.any(not _enough(rounds, options, half_width, time.perf_counter() - begin)):
            places = [0, 1]
            order.shuffle(places)
            row = [0, 0]
            for place in places:
                row[place] = latency_ns(executors[place].run())
            rounds.append(row)
            shown.update()
    return np.array(rounds, dtype=np.float64)


def _latency_ns(executor: Executor) -> int:
    return latency_ns(executor.run())


def _enough(rounds: list[list[int]], options: Options, half_width: float, spent_s: float) -> bool:
    done = len(rounds)
    if options.iterations is not None:
        return done >= options.iterations
    if done < LEAST_ROUNDS:
        return False
    if done >= MOST_ROUNDS or spent_s > options.budget_s:
        return True
    return done % LEAST_ROUNDS == 0 and _half_width(rounds) <= half_width


def _half_width(rounds: list[list[int]]) -> float:
    found: Verdict = paired_verdict(*np.array(rounds, dtype=np.float64).T)
    return (found.high - found.low) / 2
