"""Which thread a loop runs on, and who switches off what is on for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from xsp.measuring.along import loop_thread
from xsp.measuring.along.loop_thread import LoopThread


def elsewhere(function: Callable[[], object]) -> object:
    """What a function returns on another thread, which has ended."""
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    thread.join()
    return found[0]


def test_a_loop_runs_where_it_was_made_until_it_is_opened() -> None:
    """Nobody else can claim it before, and one thread only can afterwards."""
    loop = LoopThread(lambda: None)
    assert not loop.claim()
    assert elsewhere(loop.claim) is False
    assert not loop.is_elsewhere()
    loop.open_to_all()
    assert elsewhere(loop.claim) is True
    assert loop.is_elsewhere()
    assert not loop.claim()
    assert elsewhere(loop.claim) is False


def test_the_thread_that_made_it_can_claim_it_too() -> None:
    """It is then a loop of one thread, as before."""
    loop = LoopThread(lambda: None)
    loop.open_to_all()
    assert loop.claim()
    assert not loop.is_elsewhere()
    assert elsewhere(loop.is_elsewhere) is True


def test_a_thread_that_has_ended_does_not_live() -> None:
    """It can be asked for nothing any more; this one is not elsewhere."""
    loop = LoopThread(lambda: None)
    assert not loop.lives_elsewhere()
    assert elsewhere(loop.lives_elsewhere) is True
    loop.open_to_all()
    claimed, end = threading.Event(), threading.Event()

    def run() -> None:
        loop.claim()
        claimed.set()
        end.wait()

    thread = threading.Thread(target=run)
    thread.start()
    claimed.wait()
    assert loop.lives_elsewhere()
    end.set()
    thread.join()
    assert loop.is_elsewhere()
    assert not loop.lives_elsewhere()


def test_who_closes_between_two_calls_closes_here() -> None:
    """On the loop's own thread, in a call too, and on any other one while no call is being made."""
    closed: list[int] = []
    loop = LoopThread(lambda: closed.append(threading.get_ident()))
    loop.close()
    loop.call_begins()
    loop.close()
    assert closed == [threading.get_ident()] * 2
    with loop.call_ends() as goes_on:
        assert goes_on
    assert len(closed) == 2

    def close() -> int:
        loop.close()
        return threading.get_ident()

    assert [elsewhere(close)] == closed[2:]


def test_in_the_middle_of_a_call_the_loops_thread_closes() -> None:
    """When the call has ended: who asked waits for that, and the loop does not go on."""
    closed: list[int] = []
    loop = LoopThread(lambda: closed.append(threading.get_ident()))
    loop.call_begins()
    asking = threading.Thread(target=loop.close)
    asking.start()
    while not loop._asked and not closed:
        time.sleep(0.001)
    assert not closed
    with loop.call_ends() as goes_on:
        assert not goes_on
    asking.join()
    assert closed == [threading.get_ident()]


def test_a_call_that_does_not_end_is_not_waited_for_without_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ten seconds by default; what is on is then left to the loop's thread."""
    assert loop_thread.PATIENCE_S == 10.0
    monkeypatch.setattr(loop_thread, "PATIENCE_S", 0.01)
    closed: list[str] = []
    loop = LoopThread(lambda: closed.append("closed"))
    loop.call_begins()
    elsewhere(loop.close)
    assert closed == []
    with loop.call_ends():
        assert closed == ["closed"]
