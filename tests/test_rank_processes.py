"""Which rank's process has ended, seen from another process of the host."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

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
