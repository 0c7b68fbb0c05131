"""How ranks decide together, with the answers of the other ranks given; tests/test_ranks.py has
real ones.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch.distributed as dist

import xsp
from xsp.doubts import Stopped, StopReason
from xsp.measuring import ranks
from xsp.measuring.ranks import Ranks

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="needs torch.distributed")

Answers = Callable[..., Ranks]


@pytest.fixture
def rank_0(monkeypatch: pytest.MonkeyPatch) -> Answers:
    """Makes rank 0 of a program in which the other ranks answer as they are told."""

    def made(*others: Any) -> Ranks:
        def gather(found: list[Any], value: Any, group: Any) -> None:
            assert group == "own group"
            found[:] = [value, *others]

        monkeypatch.setattr(dist, "all_gather_object", gather)
        monkeypatch.setattr(dist, "get_world_size", lambda _group: 1 + len(others))
        return Ranks("own group")

    monkeypatch.setattr(dist, "get_rank", lambda: 0)
    return made


class World:
    """What knows a program's group."""


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """`torch.distributed` of rank 1 of a program of two ranks."""
    made = SimpleNamespace(
        is_available=lambda: True,
        is_initialized=lambda: True,
        get_world_size=lambda *_: 2,
        get_rank=lambda: 1,
        all_gather_object=lambda *_, group: None,
        group=SimpleNamespace(WORLD=World()),
    )
    monkeypatch.setattr(ranks, "dist", made)
    return made


def test_a_rank_alone_asks_nobody() -> None:
    """Without other ranks everything is as this one says."""
    alone = Ranks()
    assert alone.gathered(3) == [3]
    assert alone.any(True)
    assert not alone.any(False)
    alone.same("options", 3)


def test_what_holds_on_one_rank_holds(rank_0: Answers) -> None:
    """One rank that is late makes all leave something out."""
    assert rank_0(True).any(False)
    assert rank_0(False).any(True)
    assert not rank_0(False, False).any(False)


def test_what_differs_is_told_with_every_rank(rank_0: Answers) -> None:
    """Options that are not the same on all ranks are an error with what each has."""
    rank_0(3, 3).same("iterations", 3)
    with pytest.raises(
        xsp.TargetError, match=r"iterations must be .* rank 0: 3, rank 1: 3, rank 2: 4"
    ):
        rank_0(3, 4).same("iterations", 3)


def test_a_rank_that_does_not_answer_is_an_error(
    rank_0: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What goes wrong between ranks is told with the time that was waited."""
    waiting = rank_0(True)

    def gone(*_: Any, **__: Any) -> None:
        raise RuntimeError("connection closed")

    monkeypatch.setattr(dist, "all_gather_object", gone)
    with pytest.raises(xsp.TargetError, match=r"rank 0 waited .* did not answer within 60 s"):
        waiting.any(False)


ASKED = Stopped(StopReason.ASKED, 5)
PRECISE = Stopped(StopReason.PRECISE, 5)
BUDGET = Stopped(StopReason.BUDGET, 5)
MOST = Stopped(StopReason.MOST_ROUNDS, 5)
INTERRUPTED = Stopped(StopReason.INTERRUPTED, 5)


@pytest.mark.parametrize(
    ("mine", "others", "together"),
    [
        (None, [None], None),
        (PRECISE, [None], None),
        (None, [PRECISE], None),
        (ASKED, [None], None),
        (ASKED, [ASKED], ASKED),
        (PRECISE, [PRECISE, None], None),
        (PRECISE, ["enough"], PRECISE),
        ("enough", [None], None),
        (None, [BUDGET], BUDGET),
        (BUDGET, [None], BUDGET),
        (None, [None, MOST], MOST),
        (None, [INTERRUPTED], INTERRUPTED),
        (PRECISE, [None, BUDGET], PRECISE),
    ],
)
def test_rounds_end_together(rank_0: Answers, mine: Any, others: list[Any], together: Any) -> None:
    """The rounds end when every rank knows enough, or one has no more time or rounds."""
    assert rank_0(*others).stop_together(lambda _: mine)([]) == together


def test_a_rank_alone_stops_by_its_own_rule() -> None:
    """Its rule is passed through as it is."""

    def rule(_: Any) -> None:
        return None

    assert Ranks().stop_together(rule) is rule


def test_ranks_have_a_group_of_their_own(program: SimpleNamespace) -> None:
    """xsp's messages never mix with the program's: they go over one group of gloo for each of the
    program's groups, and a message is waited for 60 s.
    """
    made: list[dict[str, Any]] = []

    def new_group(**options: Any) -> str:
        made.append(options)
        return "own group"

    program.new_group = new_group
    asked: list[Any] = []
    program.all_gather_object = lambda *_, group: asked.append(group)
    program.get_world_size = lambda *_: 2
    for _ in range(2):
        Ranks.together(alone=False).gathered(1)
    # Once for the processes of the ranks, when the group is made.
    assert asked == ["own group"] * 3
    [options] = made
    assert options["backend"] == "gloo"
    assert options["timeout"].total_seconds() == 60


@pytest.mark.parametrize("why", ["alone", "not initialised", "one rank"])
def test_no_group_is_made_where_nobody_else_is(why: str, program: SimpleNamespace) -> None:
    """A rank that is asked to, or has to, profile by itself asks nobody."""
    if why == "not initialised":
        program.is_initialized = lambda: False
    if why == "one rank":
        program.get_world_size = lambda: 1
    program.new_group = lambda **_: pytest.fail("a group was made")
    assert Ranks.together(alone=why == "alone").gathered(1) == [1]


def test_a_rank_knows_its_place(program: SimpleNamespace) -> None:
    """Its number, how many there are, its host, and which clock it reads: the same text on every
    rank of one machine that was started once. One that is alone has no place.
    """
    program.new_group = lambda **_: "own group"
    place = Ranks.together(alone=False).place
    assert place is not None
    assert (place["rank"], place["size"], place["host"]) == (1, 2, platform.node())
    assert place["boot"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert Ranks().place is None


def test_a_rank_that_does_not_begin_is_an_error(program: SimpleNamespace) -> None:
    """A profile on one rank alone ends with what to do instead."""

    def nobody(**_: Any) -> None:
        raise RuntimeError("timed out")

    program.new_group = nobody
    with pytest.raises(xsp.TargetError, match=r"rank 1 waited 60 s .* alone=True"):
        Ranks.together(alone=False)
    assert ranks.PATIENCE_S == 60


@pytest.mark.parametrize("value", ["soon", "0", "-3", "inf", "nan"])
def test_a_time_limit_is_a_time(
    value: str, program: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit that was set holds for xsp's group; what is no time is refused with its place."""
    made: list[float] = []
    program.new_group = lambda timeout, **_: made.append(timeout.total_seconds())
    monkeypatch.setenv("XSP_RANK_TIMEOUT_S", value)
    with pytest.raises(xsp.SettingError, match=rf"> 0, not '{value}' as .* XSP_RANK_TIMEOUT_S"):
        Ranks.together(alone=False)
    monkeypatch.setenv("XSP_RANK_TIMEOUT_S", "7.5")
    Ranks.together(alone=False)
    assert made == [7.5]


def test_only_a_failed_collective_is_the_loss_of_a_rank(
    rank_0: Answers,
) -> None:
    """What the program itself raises passes through, and so does everything on one rank alone."""
    own, lost = ValueError("my own"), RuntimeError("[gloo/transport/tcp/pair.cc:1] closed by peer")
    for waiting, raised, expected in (
        (rank_0(True), own, ValueError),
        (rank_0(True), lost, xsp.TargetError),
        (rank_0(True), dist.DistBackendError("NCCL"), xsp.TargetError),
        (Ranks(), lost, RuntimeError),
    ):
        with pytest.raises(expected) as found, waiting.told_of_loss():
            raise raised
        assert raised in (found.value, found.value.__cause__)
