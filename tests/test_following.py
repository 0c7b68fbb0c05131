"""How many steps of a loop are taken for what, with steps that are given: nothing is run, and time
passes as a test says. The loop is timed at rung M alone, where a round takes two steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
import pytest
from test_deadline import Clock
from torch import nn

from xsp.capture.run import MODEL_CALLS
from xsp.doubts import Doubt, Slug, Stopped, StopReason
from xsp.measuring.along import following
from xsp.measuring.along.following import TRIES, Following
from xsp.measuring.along.groups import LONGEST_WAIT, Seen
from xsp.measuring.along.step_watch import Kind, ModelCall, Step
from xsp.measuring.deadline import Deadline
from xsp.measuring.options import Options
from xsp.measuring.ranks import Ranks
from xsp.measuring.warmup import MAXIMUM_RUNS

TO_BEGIN = 2
"""Steps that tell what the loop does: one is watched for modules, one is recorded."""
A_ROUND = 2
"""A step that settles and one that is timed."""


def kind(rows: int) -> Kind:
    """Steps with an input of so many rows."""
    return (ModelCall(((rows, 4),), ("float32",), True, True),)


A, B, C = kind(1), kind(2), kind(3)


class Phases:
    """Notes which phases were begun, and the rounds that were shown."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.rounds = 0

    def begin(self, phase: str) -> None:
        """A phase begins."""
        self.begun.append(phase)

    def step(self, rounds: int) -> None:
        """So many rounds are over."""
        self.rounds += rounds


class Loop:
    """A loop that is followed; its steps are what a test says."""

    def __init__(self, ranks: Ranks | None = None, **given: Any) -> None:
        options = Options.of(levels="M", **given)
        self.phases = Phases()
        self.seen = Seen()
        model, together = nn.Linear(1, 1), ranks or Ranks()
        self.following = Following("net", model, options, self.seen, together)
        shown = cast("Any", self.phases)
        self._steps = self.following.steps(Deadline.of(options), shown)
        self.is_followed = True
        self.made = 0
        next(self._steps)

    def step(self, kind: Kind = A, latency_ns: int = 1000) -> None:
        """Make a step."""
        self.made += 1
        row = {"start_ns": 0, "host_end_ns": latency_ns, "end_ns": latency_ns, "thread": 1}
        stamps = {name: np.array([row[name]], dtype=dtype) for name, dtype in MODEL_CALLS.items()}
        self.seen.note(kind)
        try:
            self._steps.send(Step(stamps, kind))
        except StopIteration:
            self.is_followed = False

    def until_left(self, kinds: Sequence[Kind] = (A,), most: int = 2000) -> int:
        """Make steps of these kinds in turn; how many until the loop was followed no longer."""
        before = self.made
        while self.is_followed and self.made - before < most:
            self.step(kinds[self.made % len(kinds)])
        return self.made - before

    def rounds(self) -> dict[Kind, int]:
        """Complete rounds of each group."""
        return {group.kind: group.done.rounds for group in self.following.groups}

    def ends(self) -> list[Stopped | None]:
        """Why each group has no more rounds."""
        return [group.done.stopped for group in self.following.groups]

    def doubts(self) -> list[Doubt | str]:
        """What is doubtful about the first group."""
        return self.following.groups[0].known.doubts

    def close(self) -> None:
        """The loop has ended."""
        self._steps.close()


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Time passes where a test says so only."""
    made = Clock()
    monkeypatch.setattr("time.perf_counter", made)
    return made


@pytest.fixture
def loops() -> Iterator[list[Loop]]:
    """Loops to be ended after the test."""
    made: list[Loop] = []
    yield made
    for each in made:
        each.close()


@pytest.mark.parametrize(("warmup", "rounds"), [(0, 1), (3, 2), (1, 5)])
def test_steps_are_used_for_what_was_asked(warmup: int, rounds: int, loops: list[Loop]) -> None:
    """So many for warm-up and rounds, besides those that tell what the loop does, and none more."""
    loop = Loop(warmup=warmup, iterations=rounds)
    loops.append(loop)
    assert loop.until_left() == TO_BEGIN + warmup + A_ROUND * rounds
    assert loop.rounds() == {A: rounds}
    assert loop.phases.begun == ["structure step", "warm-up", "rounds"]
    assert loop.phases.rounds == rounds
    assert loop.ends() == [Stopped(StopReason.ASKED, rounds)]
    assert loop.doubts() == []


def test_runs_are_those_of_the_timed_steps(loops: list[Loop]) -> None:
    """Of two steps the second is timed, whatever the first took."""
    loop = Loop(warmup=0, iterations=3)
    loops.append(loop)
    for number in range(TO_BEGIN + 3 * A_ROUND):
        loop.step(latency_ns=10**6 if number % 2 == 0 else number)
    [group] = loop.following.groups
    assert [run.latency_ns for run in group.done.runs] == [3, 5, 7]
    assert [(run.round, run.position) for run in group.done.runs] == [(0, 0), (1, 0), (2, 0)]


def test_the_gpus_state_is_read_once_a_round(
    loops: list[Loop], monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the round is over, with its number; of each group by its own watch."""
    read: list[int] = []

    class Watch:
        def read(self, number: int) -> None:
            read.append(number)

    monkeypatch.setattr(following, "GpuWatch", Watch)
    loop = Loop(warmup=0, iterations=3)
    loops.append(loop)
    loop.until_left()
    assert read == [0, 1, 2]


# ---- warm-up ----


def test_warm_up_ends_when_steps_get_no_faster(loops: list[Loop]) -> None:
    """Four steps alike are enough; a loop that gets faster each time is warm after thirty, and that
    is told.
    """
    steady = Loop(iterations=1)
    loops.append(steady)
    assert steady.until_left() == TO_BEGIN + 4 + A_ROUND
    assert steady.doubts() == []
    faster = Loop(iterations=1)
    loops.append(faster)
    for number in range(TO_BEGIN + MAXIMUM_RUNS):
        assert faster.phases.begun[-1] != "rounds"
        faster.step(latency_ns=10**9 >> (number // 2))
    assert faster.phases.begun[-1] == "rounds"
    assert faster.doubts() == [Doubt.of(Slug.UNSETTLED, runs=MAXIMUM_RUNS)]


def test_warm_up_ends_with_a_third_of_the_time(loops: list[Loop], clock: Clock) -> None:
    """Counted from when it begins."""
    loop = Loop(budget_s=30.0)
    loops.append(loop)
    clock.now += 5
    for _ in range(TO_BEGIN):
        loop.step()
    for number in range(3):
        clock.now += 4
        assert loop.phases.begun[-1] == "warm-up"
        loop.step(latency_ns=10**9 >> number)
    assert loop.phases.begun[-1] == "rounds"
    assert loop.doubts() == [Doubt.of(Slug.UNSETTLED, runs=3)]


# ---- steps of other work ----


def test_only_steps_like_the_structure_step_are_timed(loops: list[Loop]) -> None:
    """Others that come between are waited out."""
    loop = Loop(warmup=0, iterations=2)
    loops.append(loop)
    for each in (A, A):
        loop.step(each)
    for each in (B, C, B, A, A, A):
        loop.step(each, latency_ns=1000 if each == A else 77)
    [group] = loop.following.groups[:1]
    assert group.kind == A
    assert [run.latency_ns for run in group.done.runs] == [1000, 1000]


def test_the_structure_step_is_like_the_one_before(loops: list[Loop]) -> None:
    """Which modules a step calls was seen in one of its own kind."""
    loop = Loop(warmup=0, iterations=1)
    loops.append(loop)
    for each in (A, B, C, A):
        assert loop.following.groups == []
        loop.step(each)
    [group] = loop.following.groups
    assert group.kind == A


def test_another_kind_is_tried_after_eight_steps_without_the_first(loops: list[Loop]) -> None:
    """A step that never comes again does not keep the loop from being measured."""
    loop = Loop(warmup=0, iterations=1)
    loops.append(loop)
    loop.step(C)
    for _ in range(TRIES):
        loop.step(A)
    for _ in range(TO_BEGIN):
        assert loop.following.groups == []
        loop.step(B)
    assert [group.kind for group in loop.following.groups] == [B]


def test_frequent_kinds_are_groups_of_their_own(loops: list[Loop]) -> None:
    """Each with the rounds asked for; a kind of which there are two steps is none."""
    loop = Loop(warmup=0, iterations=6)
    loops.append(loop)
    for each in (A, A, C, C):
        loop.step(each)
    loop.until_left((A, B))
    assert loop.rounds() == {A: 6, B: 6}
    assert loop.ends() == [Stopped(StopReason.ASKED, 6)] * 2


def test_a_group_whose_steps_stop_coming_ends(loops: list[Loop]) -> None:
    """A hundred steps after its last, where another has all its rounds; its rounds so far are
    kept, and why there are no more is told.
    """
    loop = Loop(warmup=0, iterations=4)
    loops.append(loop)
    for number in range(22):
        loop.step((A, B)[number % 2])
    assert set(loop.rounds()) == {A, B}
    few = loop.rounds()[B]
    assert few < 4
    made = loop.until_left((A,))
    assert made <= LONGEST_WAIT + 60
    assert loop.rounds() == {A: 4, B: few}
    end = loop.ends()[1]
    assert end is not None
    assert end.reason is StopReason.OWN_RULE
    said = f"given up after {few} rounds: steps like the structure step came too rarely"
    assert end.said == said


def test_a_loop_of_steps_that_never_come_again_is_left(loops: list[Loop], clock: Clock) -> None:
    """When the time is over."""
    loop = Loop(budget_s=10.0)
    loops.append(loop)
    for number in range(10):
        clock.now += 1
        loop.step(kind(10 + number))
        assert loop.is_followed
    clock.now += 1
    loop.step(kind(99))
    assert not loop.is_followed
    assert loop.following.groups == []


def test_no_further_group_is_begun_when_the_time_is_over(loops: list[Loop], clock: Clock) -> None:
    """What is left of the budget decides, where rounds are not counted."""
    loop = Loop(warmup=0, budget_s=10.0)
    loops.append(loop)
    for each in (B, B, B, A, A):
        loop.step(each)
    clock.now += 11
    made = loop.until_left((A,), most=50)
    assert made < 50
    assert [group.kind for group in loop.following.groups] == [B]


def test_a_loop_is_left_while_its_structure_step_is_waited_for(
    loops: list[Loop], clock: Clock
) -> None:
    """The time is asked for after every step, also before eight were tried."""
    loop = Loop(budget_s=10.0)
    loops.append(loop)
    loop.step(A)
    loop.step(B)
    assert loop.is_followed
    clock.now += 11
    loop.step(C)
    assert not loop.is_followed
    assert loop.following.groups == []


def test_a_kind_that_does_not_come_again_is_no_group(loops: list[Loop]) -> None:
    """Three steps of it were worth a try; where none follows it is given up, not tried again, and
    the next most frequent kind is a group.
    """
    loop = Loop(warmup=0, iterations=9)
    loops.append(loop)
    for each in (A, A, B, B, B, C, C, C):
        loop.step(each)
    loop.until_left((A, C))
    assert loop.rounds() == {A: 9, C: 9}


# ---- on several ranks ----


class Several(Ranks):
    """Ranks that all do what this one does; notes what must be the same on all."""

    def __init__(self) -> None:
        super().__init__()
        self.compared: dict[str, Any] = {}

    @property
    def are_several(self) -> bool:
        return True

    def same(self, what: str, value: Any) -> None:
        self.compared[what] = value


def test_ranks_trace_the_same_levels(loops: list[Loop]) -> None:
    """What each traces is compared before anything is measured: their rounds must be the same."""
    ranks = Several()
    loops.append(Loop(ranks))
    assert ranks.compared == {"the traced levels": ["MODEL"]}


def test_ranks_wait_for_steps_until_their_time_is_over(loops: list[Loop], clock: Clock) -> None:
    """Steps of other work, however many, do not end what the other ranks wait for, and are no
    group of their own.
    """
    loop = Loop(Several(), warmup=0, budget_s=10.0)
    loops.append(loop)
    for each in (A, A, *(B,) * 2 * LONGEST_WAIT):
        loop.step(each)
    assert loop.is_followed
    clock.now += 11
    loop.step(B)
    assert not loop.is_followed
    assert loop.rounds() == {A: 0}
