"""Which rank's process has ended, seen from another process of the host."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from virtual_clock import VirtualClock

from xsp.measuring import rank_processes
from xsp.measuring.rank_processes import RankProcess, ended, lost


def no_word(rank: int) -> bool:
    """No rank said that it saw another one's loss."""
    return False


def test_only_a_process_that_ended_is_named() -> None:
    """A process that has ended is named with its rank, also before its parent asks for its status;
    one that runs is not, and one whose number was given to a later process has ended.
    """
    own = RankProcess.own(0)
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    running = RankProcess.of(child.pid, 1)
    assert not running.has_ended
    assert lost([own, running], no_word) == "the processes of all ranks are running"
    child.kill()
    assert ended([own, running], within_s=30) == [running]
    assert lost([own, running], no_word) == f"rank 1 (process {child.pid} on {own.host}) has ended"
    child.communicate()
    assert running.has_ended
    assert replace(own, rank=2, began="1").has_ended


def test_ranks_that_ended_because_of_another_are_not_named() -> None:
    """Of three that ended, the two that said that they saw a loss are not the one that was lost."""
    own = RankProcess.own(0)
    others = [replace(own, rank=rank, began="1") for rank in (1, 2, 3)]
    said = lost([own, *others], {1: True, 2: False, 3: True}.__getitem__)
    assert said.startswith("rank 2 (")
    assert "rank 1" not in said


def test_ranks_elsewhere_are_said_to_be_unseen() -> None:
    """Of processes on another host nothing is known but that they are there."""
    own = RankProcess.own(0)
    far = replace(own, rank=1, host="far", namespace="another boot")
    assert not far.has_ended
    assert lost([own, far], no_word).endswith("cannot be seen from here: rank 1 on far")


def test_all_that_ended_are_named_where_none_of_them_was_the_first() -> None:
    """Ranks of which each says that it saw another's loss: something else ended them all. Several
    that said nothing are named together.
    """
    own = RankProcess.own(0)
    gone = [replace(own, rank=rank, began="1") for rank in (1, 2)]
    expected = ", ".join(f"rank {rank} (process {own.pid} on {own.host})" for rank in (1, 2))
    assert lost([own, *gone], lambda _rank: True) == f"{expected} have ended"
    assert lost([own, *gone], no_word) == f"{expected} have ended"


def test_ranks_that_run_are_told_from_ranks_that_are_not_seen(virtual_clock: VirtualClock) -> None:
    """Every rank elsewhere is named; one that ended here is what is known."""
    own = RankProcess.own(0)
    far = [replace(own, rank=rank, host=f"far{rank}", namespace="other") for rank in (2, 3)]
    assert lost([own, *far], no_word) == (
        "the ranks of this host are running; those that cannot be seen from here: "
        "rank 2 on far2, rank 3 on far3"
    )
    gone = replace(own, rank=1, began="1")
    said = lost([own, gone, *far], no_word)
    assert said == f"rank 1 (process {own.pid} on {own.host}) has ended"


class Ending(RankProcess):
    """A process that has ended when it was asked about a few times."""

    answers: Iterator[bool]

    @property
    def has_ended(self) -> bool:
        """Whether it has, by now."""
        return next(self.answers)


def ending_after(asked: int) -> Ending:
    """One that runs while it is asked so often."""
    own = RankProcess.own(0)
    process = Ending(1, own.host, own.namespace, own.pid, own.began)
    object.__setattr__(process, "answers", iter([False] * asked + [True] * 1000))
    return process


def test_the_end_of_a_process_is_waited_for(virtual_clock: VirtualClock) -> None:
    """A connection is reset a little before its process is seen to have ended: for two seconds
    unless told otherwise, and once in any case.
    """
    late = ending_after(50)
    before = virtual_clock.read()
    assert ended([late]) == [late]
    assert 0.5 < virtual_clock.read() - before < 1.5
    running = RankProcess.own(0)
    before = virtual_clock.read()
    assert ended([running]) == []
    assert 2.0 < virtual_clock.read() - before < 2.5
    assert ended([ending_after(0)], within_s=0)


def test_a_name_of_a_process_may_be_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Brackets and spaces in it are not taken for the fields that follow it; what is dead, or a
    process that nobody has asked about, has ended.
    """
    monkeypatch.setattr(rank_processes, "_PROC", tmp_path)
    boot = tmp_path / "sys/kernel/random/boot_id"
    boot.parent.mkdir(parents=True)
    boot.write_text("this boot\n")
    (tmp_path / "self/ns").mkdir(parents=True)
    (tmp_path / "self/ns/pid").symlink_to("pid:[1]")
    (tmp_path / "7").mkdir()

    def is_in_state(state: str, began: int) -> None:
        rest = " ".join([state, *map(str, range(4, 22)), str(began), "23"])
        (tmp_path / "7/stat").write_text(f"7 (a) b (c) {rest}")

    is_in_state("S", 4321)
    process = RankProcess.of(7, 1)
    assert process.began == "4321"
    assert process.namespace == "this boot pid:[1]"
    assert process.can_be_seen
    assert not process.has_ended
    for state, began in (("Z", 4321), ("X", 4321), ("S", 4322)):
        is_in_state(state, began)
        assert process.has_ended
    is_in_state("R", 4321)
    assert not process.has_ended
    (tmp_path / "7/stat").unlink()
    assert process.has_ended
    boot.unlink()
    assert not process.can_be_seen
    assert not process.has_ended


def test_where_processes_cannot_be_seen_none_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a system without /proc nothing is known of any of them, this one included."""
    monkeypatch.setattr(rank_processes, "_PROC", tmp_path)
    own = RankProcess.own(0)
    assert own.namespace == ""
    assert not own.can_be_seen
    assert not own.has_ended
