"""Which steps of a loop are measured together, how long they are waited for, and in which words
steps of other work are told.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from test_deadline import Clock
from test_deadline import run as run_of

from xsp.levels.layer.autograd import ENGINE_CODE
from xsp.measuring.along.groups import FEWEST_STEPS, LONGEST_WAIT, MOST_GROUPS, Group, Seen
from xsp.measuring.along.others import difference, different_layers
from xsp.measuring.along.step_watch import Kind, ModelCall, Step
from xsp.measuring.ladder import Ladder


def call(*shape: int, dtype: str = "float32", training: bool = True, grad: bool = True) -> Kind:
    """A step with one call of the model, for a tensor of this shape."""
    return (ModelCall((shape,), (dtype,), training, grad),)


def group(kind: Kind) -> Group:
    """A group of steps of this kind."""
    known: Any = SimpleNamespace(step=Step({}, kind))
    return Group(known, Ladder(()), lambda _runs: None)


def seen(*steps: tuple[Kind, int]) -> Seen:
    """A loop that made so many steps of each kind, one kind after the other."""
    made = Seen()
    for kind, number in steps:
        for _ in range(number):
            made.note(kind)
    return made


A, B, C = call(1), call(2), call(3)


# ---- which kinds are groups ----


def test_a_kind_is_worth_a_group_from_its_third_step_on() -> None:
    """Fewer steps of a kind are told of, not measured."""
    assert FEWEST_STEPS == 3
    assert seen((A, 2)).next_kind([], set()) is None
    assert seen((A, 3)).next_kind([], set()) == A
    assert Seen().next_kind([], set()) is None


def test_the_most_frequent_kind_is_next() -> None:
    """Of kinds that are groups already, or could not become one, the next is taken."""
    loop = seen((A, 4), (B, 6), (C, 5))
    assert loop.next_kind([], set()) == B
    assert loop.next_kind([group(B)], set()) == C
    assert loop.next_kind([group(B)], {C}) == A
    assert loop.next_kind([group(B), group(C)], {A}) is None


def test_four_groups_are_enough() -> None:
    """Each takes steps of its own for its rounds: the fifth kind is none."""
    assert MOST_GROUPS == 4
    loop = seen((A, 9))
    others = [group(call(10 + number)) for number in range(4)]
    assert loop.next_kind(others[:3], set()) == A
    assert loop.next_kind(others, set()) is None


# ---- how long steps are waited for ----


def test_a_kind_has_stopped_after_a_hundred_steps_without_it() -> None:
    """From its last step on, or from the loop's begin where there was none."""
    assert LONGEST_WAIT == 100
    loop = seen((B, 1), (A, 1), (B, 100))
    assert not loop.has_stopped(A)
    loop.note(B)
    assert loop.has_stopped(A)
    assert not loop.has_stopped(B)
    assert not seen((B, 100)).has_stopped(A)
    assert seen((B, 101)).has_stopped(A)
    loop.note(A)
    assert not loop.has_stopped(A)


def test_time_is_given_up_after_so_many_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """From when it is asked for, and not before they have passed."""
    clock = Clock()
    monkeypatch.setattr("time.perf_counter", clock)
    given_up = Seen().after_seconds(3.0)
    clock.now += 3
    assert not given_up()
    clock.now += 0.5
    assert given_up()


def waited(loop: Seen, wanted: Kind) -> int:
    """Further steps of another kind after which a wanted kind is given up."""
    given_up = loop.after_steps_for(wanted)
    for number in range(1000):
        if given_up():
            return number
        loop.note(C)
    raise AssertionError("it is never given up")


def test_a_frequent_kind_is_given_up_sooner_than_a_rare_one() -> None:
    """Four times as many steps as it takes one to come, and eight, but no more than fifty."""
    assert waited(seen((B, 10), (A, 10)), A) == 8 + 4 * 2 + 1
    assert waited(seen((B, 30), (A, 10)), A) == 8 + 4 * 4 + 1
    assert waited(seen((B, 31), (A, 9)), A) == 8 + 17 + 1
    assert waited(seen((B, 40), (A, 1)), A) == 51
    assert waited(Seen(), A) == 9
    assert waited(seen((B, 5)), A) == 8 + 4 * 5 + 1


def test_a_kind_that_has_stopped_is_given_up_at_once() -> None:
    """Steps that have not come for a hundred steps are waited for no longer, however rare."""
    assert waited(seen((A, 1), (B, 90)), A) == 11
    assert waited(seen((A, 1), (B, 101)), A) == 0


def test_groups_of_one_loop_have_the_order_of_the_seed() -> None:
    """The order of rungs is that of the ladder's seed, whatever the kind."""
    known: Any = SimpleNamespace(step=Step({}, A))
    orders = [
        Group(known, Ladder((), seed), lambda _runs: None).order.random() for seed in (1, 1, 2)
    ]
    assert orders[0] == orders[1] != orders[2]


# ---- what steps of other work did ----


@pytest.mark.parametrize(
    ("structure", "step", "said"),
    [
        (A, A, ""),
        (call(16, 8), call(7, 8), "inputs of 7x8 instead of 16x8"),
        (call(16, 8), call(), "inputs of scalar instead of 16x8"),
        (
            (ModelCall(((2, 3), (4,)), ("float32",) * 2, True, True),),
            (ModelCall((), (), True, True),),
            "inputs of no tensors instead of 2x3, 4",
        ),
        (
            (*call(2), *call(16)),
            (*call(2), *call(5)),
            "inputs of 5 instead of 16",
        ),
        (
            call(2),
            call(2, grad=False, training=False),
            "evaluation without gradients, inputs of float32 instead of training with gradients, "
            "inputs of float32",
        ),
        (
            call(2),
            call(2, dtype="float16"),
            "training with gradients, inputs of float16 instead of training with gradients, "
            "inputs of float32",
        ),
        (
            call(2),
            (*call(2), "backward", "SGD.step"),
            "1 model calls, 1 backward passes, 1 SGD.step instead of 1 model calls, 0 backward "
            "passes",
        ),
        (
            (*call(2), "backward"),
            (*call(2), *call(3), "backward", "backward", "StepLR.step", "SGD.step", "StepLR.step"),
            "2 model calls, 2 backward passes, 2 StepLR.step, 1 SGD.step instead of 1 model calls, "
            "1 backward passes",
        ),
    ],
)
def test_other_work_is_told_by_what_is_other(structure: Kind, step: Kind, said: str) -> None:
    """By the first call with other shapes, then by its mode, then by what there was of each."""
    assert difference(structure, step) == said


def structure(*codes: int) -> Any:
    """A structure step of these layers."""
    return SimpleNamespace(layers=SimpleNamespace(codes=lambda: np.array(codes, dtype=np.int64)))


def test_steps_alike_from_outside_can_run_other_layers() -> None:
    """Each layer must be called as often as in the structure step, in any order; autograd's nodes,
    and rungs that trace no layers, say nothing.
    """
    step = run_of(0, 1000, [5, 5, 5])
    assert different_layers(step, structure(2, 0, 1)) == ""
    assert different_layers(step, structure(2, 0, 1, ENGINE_CODE, ENGINE_CODE + 8)) == ""
    assert different_layers(step, structure(0, 1)) == "other layers (3 calls instead of 2)"
    assert different_layers(step, structure(0, 1, 7)) == "other layers (3 calls instead of 3)"
    assert different_layers(run_of(0, 1000), structure(0, 1)) == ""
    nodes = step.tables["layer_events"]["code"]
    nodes[:] = [0, ENGINE_CODE, ENGINE_CODE + 1]
    assert different_layers(step, structure(0)) == ""


def test_layers_between_the_steps_calls_do_not_count() -> None:
    """What runs after the step has ended is not its work."""
    step = run_of(0, 1000, [5, 5, 5])
    step.tables["layer_events"]["start_ns"][2] = 1001
    assert different_layers(step, structure(0, 1)) == ""
