"""What the fixture `xsp` is: measure, hold against budgets and baseline, and remember what became
of it.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from xsp.errors import BudgetError
from xsp.extras import require
from xsp.regression.identity import machine_sentence, test_path
from xsp.regression.options import MAX_SLOWDOWN, UNCHECKED, Options
from xsp.regression.outcome import Outcome, State
from xsp.regression.plan import Plan, known_options
from xsp.words.numbers import known

if TYPE_CHECKING:
    from xsp.profiles import Profile
    from xsp.regression.baselines import Baseline
    from xsp.regression.budgets import Checked
    from xsp.regression.call import Call
    from xsp.regression.judging import Judgement


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    """Wait until no other process of this user measures on this machine, and keep others waiting
    meanwhile.

    The lock is the operating system's (flock) and ends with the process, however that ends.
    """
    import fcntl

    with (Path(tempfile.gettempdir()) / f"xsp-measuring-{os.getuid()}.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)


Fail = Callable[[str], None]
"""Called with the message when a test has to fail."""

Tell = Callable[[str], None]


def _nobody(_line: str) -> None:
    """Tells nobody."""


@dataclass(frozen=True)
class Name:
    """Which test it is: its file relative to the root, and the names of its classes and itself."""

    file: str
    names: tuple[str, ...]

    def __str__(self) -> str:
        return "::".join([self.file, *self.names])


@dataclass(frozen=True)
class Measured:
    """A profile with what it was found to be; `judgement` is None where nothing was compared."""

    profile: Profile
    baseline: Baseline
    judgement: Judgement | None
    seconds: float


class Measurer:
    """Measures a target whenever it is called, within one test.

    Args:
        test: the test's name.
        marked: options of its markers, those nearest to the test last.
        options: of the test run.
        root: the folder of the baselines.
        fail: fails the test.
        tell: is told, in a line, what is measured and for how long.

    """

    def __init__(
        self,
        test: Name,
        marked: Sequence[Mapping[str, Any]],
        options: Options,
        root: Path,
        fail: Fail,
        tell: Tell = _nobody,
    ) -> None:
        self.outcomes: list[Outcome] = []
        self._test = test
        self._marked = marked
        self._options = options
        self._root = root
        self._fail = fail
        self._tell = tell
        self._counts_only = False
        self._parts: set[str] = set()
        self._unsaved: list[tuple[int, PurePosixPath, Baseline]] = []

    def __call__(self, target: Callable[..., Any], /, *args: Any, **options: Any) -> Profile:
        """Measure `target(*args)`, compare it with this test's baseline, and return the profile.

        Keyword arguments are options (`xsp.regression.plan.known_options`); any other is the
        target's.
        """
        require("torch")
        from xsp.regression.call import Call

        own = {name: options.pop(name) for name in known_options() if name in options}
        plan = Plan.of(*self._marked, own)
        call = Call(target, args, options)
        part = self._part(plan)
        name = f"{self._test}@{part}" if part else str(self._test)
        if self._options.disable:
            self.outcomes.append(Outcome(name, State.DISABLED))
            return call.executed(plan)
        path = test_path(self._test.file, self._test.names, part)
        self._counts_only = not (self._options.need_times or plan.needs_times)
        self._tell(f"{name}: {self._announced(plan)}")
        with one_at_a_time():
            measured = self._measured(call, plan, name, path)
        self._finished(measured, plan, name, path)
        return measured.profile

    def _announced(self, plan: Plan) -> str:
        if self._counts_only:
            return "counting one run"
        if "iterations" in plan.measuring:
            return f"measuring {plan.measuring['iterations']} rounds"
        if "stop" in plan.measuring:
            return "measuring until its own rule is met"
        return f"measuring for up to {plan.measuring['budget_s']:g} s"

    def _part(self, plan: Plan) -> str:
        """What tells this measurement from the test's others. Two of one name would be compared
        with one baseline.
        """
        count = len(self.outcomes) + 1
        part = plan.name or (str(count) if count > 1 else "")
        if part in self._parts:
            raise BudgetError(
                f"name={part!r} is used by another measurement of {self._test} already: give "
                f"each call its own name, such as xsp(…, name='{part}-2')"
            )
        self._parts.add(part)
        return part

    def save(self) -> None:
        """Write the baselines that are to be saved. For a test that has passed: what failed is
        nothing to go by.
        """
        from xsp.regression.baselines import Baselines

        baselines = Baselines(self._root, str(self._options.save))
        for index, path, baseline in self._unsaved:
            file = baselines.write(path, baseline, same_program=self._options.add)
            self.outcomes[index] = replace(self.outcomes[index], saved=str(file))
        self._unsaved.clear()

    def _measured(self, call: Call, plan: Plan, name: str, path: PurePosixPath) -> Measured:
        """Measure, and again with twice the rounds while the verdict is open and the plan's
        patience lasts.
        """
        begin = time.perf_counter()
        found = self._judged(call, plan, name, path, None)
        patience = time.perf_counter() + plan.patience_s
        while found.judgement is not None and found.judgement.open and not self._options.add:
            if time.perf_counter() + 2 * found.seconds > patience:
                break
            rounds = 2 * rounds_of(found.profile)
            self._tell(f"{name}: noise leaves it open, measuring {rounds} rounds")
            found = self._judged(call, plan, name, path, rounds)
        return replace(found, seconds=time.perf_counter() - begin)

    def _judged(
        self, call: Call, plan: Plan, name: str, path: PurePosixPath, rounds: int | None
    ) -> Measured:
        from xsp.comparing.comparable import comparable
        from xsp.regression.baselines import Baseline, Baselines
        from xsp.regression.judging import judge

        begin = time.perf_counter()
        counts_only = self._counts_only
        profile = call.counted(plan) if counts_only else call.profile(plan, rounds)
        saved = datetime.now(timezone.utc).isoformat(timespec="seconds")
        baseline = Baseline.measured(name, saved, comparable(profile), call.graph_breaks())
        judgement = None
        if self._options.compare is not None:
            against = Baselines(self._root, self._options.compare)
            threshold = self._threshold(plan)
            judgement = judge(baseline, plan, threshold, against, path, counts_only=counts_only)
        return Measured(profile, baseline, judgement, time.perf_counter() - begin)

    def _threshold(self, plan: Plan) -> float:
        return plan.max_slowdown or self._options.max_slowdown or MAX_SLOWDOWN

    def _finished(self, measured: Measured, plan: Plan, name: str, path: PurePosixPath) -> None:
        from xsp.regression.budgets import check_budgets

        budgets = check_budgets(measured.profile, plan.budgets, measured.baseline.graph_breaks)
        failures = self._failures(measured.judgement, budgets)
        if self._options.save is not None:
            self._unsaved.append((len(self.outcomes), path, measured.baseline))
        self.outcomes.append(self._outcome(measured, plan, name, budgets, failures))
        if failures:
            self._fail("\n".join(f"{name}: {failure}" for failure in failures))

    def _failures(self, judgement: Judgement | None, budgets: Sequence[Checked]) -> list[str]:
        from xsp.regression import budgets as of_budgets

        fatal = {of_budgets.BROKEN}
        if UNCHECKED in self._options.rules:
            fatal.add(of_budgets.UNCHECKED)
        failures = [each.message for each in budgets if each.state in fatal]
        if judgement is not None and not self._options.update:
            failures += self._of_comparison(judgement)
        return failures

    def _of_comparison(self, judgement: Judgement) -> list[str]:
        from xsp.regression.judging import OTHER_PROGRAM

        if not self._options.add:
            return judgement.failures(self._options.rules)
        return [
            f"not the program of the baseline, so not added: {said}"
            for said in judgement.failures(OTHER_PROGRAM)
        ]

    def _state(self, judgement: Judgement | None, failures: Sequence[str]) -> State:
        if judgement is None:
            return State.RECORDED
        added = self._options.add and judgement.baseline is not None and not failures
        return State.RECORDED if added else judgement.state

    def _outcome(
        self,
        measured: Measured,
        plan: Plan,
        name: str,
        budgets: Sequence[Checked],
        failures: Sequence[str],
    ) -> Outcome:
        from xsp.regression import budgets as of_budgets

        judgement = measured.judgement
        said: list[str] = []
        if judgement is not None:
            said = [*judgement.says.values(), *judgement.notes]
        unchecked = [each.message for each in budgets if each.state == of_budgets.UNCHECKED]
        nothing = None, None
        of_metric = nothing if self._counts_only else _summary(measured.baseline, plan.metric)
        time_ms, half = of_metric
        return Outcome(
            test=name,
            state=self._state(judgement, failures),
            metric=plan.metric,
            time_ms=time_ms,
            time_ci_ms=half,
            **_comparison(judgement, plan.metric),
            allowed=self._threshold(plan),
            baseline=self._options.compare or "",
            machine=machine_sentence(measured.baseline.machine),
            rounds=rounds_of(measured.profile),
            seconds=measured.seconds,
            counts=tuple(measured.baseline.profile.counts.items()),
            failures=tuple(failures),
            notes=tuple(sentence for sentence in said if sentence not in failures),
            kept=tuple(each.message for each in budgets if each.state == of_budgets.KEPT),
            unchecked=() if failures else tuple(unchecked),
        )


def rounds_of(profile: Profile) -> int:
    """Rounds that a profile has kept."""
    return int(profile.runs["round"].nunique())


def _comparison(judgement: Judgement | None, metric: str) -> dict[str, Any]:
    """The numbers of an outcome that come from its baseline; what is not known is left out."""
    numbers: dict[str, Any] = {}
    if judgement is None:
        return numbers
    if judgement.baseline is not None:
        numbers["baseline_ms"], _ = _summary(judgement.baseline, metric)
    if judgement.decision is not None:
        verdict = judgement.decision.verdict
        for name in ("ratio", "low", "high", "p_value"):
            numbers[name] = known(getattr(verdict, name))
    return numbers


def _summary(baseline: Baseline, metric: str) -> tuple[float | None, float | None]:
    """Trimmed mean of the metric in ms and half its 95 % interval; None where unknown."""
    from xsp.analysis.spans.statistics import trimmed

    sample = baseline.profile.sample(str(baseline.profile.nodes["path"].iloc[0]), metric)
    mean, half = trimmed(sample)
    return known(float(mean)), known(float(half))
