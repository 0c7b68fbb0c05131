"""How long a thread waits for its turn to profile, on a clock that a test moves: each time the
waiting thread looks, so many seconds have passed.
"""

from __future__ import annotations

import inspect
import re
import sys
import threading
import time
from collections.abc import Callable

import pytest

import xsp
from xsp.levels._native.signals import held
from xsp.measuring import turns
from xsp.measuring.turns import in_call, turn

LONGEST_S = 60
"""Of waiting for another thread of a test."""


class Clock:
    """`time.monotonic` of the waiting thread; `look` is told how often it has been looked at."""

    def __init__(self) -> None:
        self.step_s = 1.0
        self.looks = 0
        self.look: Callable[[int], object] = lambda _looks: None

    def monotonic(self) -> float:
        """So many seconds later each time."""
        self.looks += 1
        self.look(self.looks)
        return 1000 + self.step_s * self.looks


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock, which is looked at without a pause."""
    made = Clock()
    monkeypatch.setattr(turns, "time", made)
    monkeypatch.setattr(turns, "_POLL_S", 0.001)
    return made


class Other:
    """A thread whose turn it is, and which does something in it until it is released."""

    def __init__(self, stand: Callable[[Other], object]) -> None:
        self.ready, self.release = threading.Event(), threading.Event()
        self.is_released = False
        self._stand = stand
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        with held(), turn("other"):
            self._stand(self)

    def settle(self, place: str) -> None:
        """Wait until it stands in the function of this name."""
        end = time.monotonic() + LONGEST_S
        while time.monotonic() < end:
            frame = sys._current_frames()[self._thread.ident or 0]
            if frame.f_code.co_name == place:
                return
            time.sleep(0.001)
        raise AssertionError(f"it is not in {place}")

    def __enter__(self) -> Other:
        self._thread.start()
        assert self.ready.wait(LONGEST_S)
        return self

    def __exit__(self, *_: object) -> None:
        self.is_released = True
        self.release.set()
        self._thread.join(LONGEST_S)
        assert not self._thread.is_alive()


def wait_in_a_call(other: Other) -> None:
    """Stand in one wait."""
    with in_call():
        other.ready.set()
        other.release.wait(LONGEST_S)


def wait_between_calls(other: Other) -> None:
    """Stand in one wait, having made a call."""
    with in_call():
        pass
    other.ready.set()
    other.release.wait(LONGEST_S)


def compute_in_a_call(other: Other) -> None:
    """Stand in no wait of `threading`."""
    with in_call():
        other.ready.set()
        while not other.is_released:
            time.sleep(0.001)


def asked() -> None:
    """Ask for the turn."""
    with held(), turn("mine"):
        pass


def test_one_wait_of_ten_seconds_is_too_long() -> None:
    """The call may wait for this very thread: the error has both names, where it waits and how
    long.
    """
    lines, first = inspect.getsourcelines(wait_in_a_call)
    said = (
        "mine cannot be profiled on this thread: another thread is profiling other, one call of "
        f"which has waited in test_patience.py:{first + len(lines) - 1} for 10 s, perhaps for this "
        "very thread"
    )
    with Other(wait_in_a_call) as other:
        # Time stands still until then, however slow the machine is.
        other.settle("wait")
        with pytest.raises(xsp.TargetError, match=re.escape(said)):
            asked()


def test_a_call_of_five_minutes_is_too_long(clock: Clock) -> None:
    """A call that computes may take longer than one that waits, but not for ever."""
    clock.step_s = 50.0
    said = "other, one call of which has taken 300 s, perhaps for this very thread"
    with Other(compute_in_a_call) as other:
        other.settle("compute_in_a_call")
        with pytest.raises(xsp.TargetError, match=re.escape(said)):
            asked()


def test_between_its_calls_another_profile_is_waited_for(clock: Clock) -> None:
    """Fitting and assembling take as long as they take, whatever they wait for."""
    clock.step_s = 1000.0
    with Other(wait_between_calls) as other:
        clock.look = lambda looks: other.release.set() if looks == 20 else None
        asked()
    assert clock.looks >= 20


def test_each_call_is_waited_for_anew(clock: Clock) -> None:
    """A profile of forty calls that wait for nine seconds each is none that stands still."""
    calls = 40
    begun = [threading.Event() for _ in range(calls + 1)]
    ends = [threading.Event() for _ in range(calls)]

    def several(other: Other) -> None:
        for number in range(calls):
            with in_call():
                other.ready.set()
                begun[number].set()
                ends[number].wait(LONGEST_S)
        begun[calls].set()

    def look(looks: int) -> None:
        number, passed = divmod(looks, 9)
        if passed == 0 and number <= calls:
            ends[number - 1].set()
            # Time stands still until the next call has begun, however slow the machine is.
            assert begun[number].wait(LONGEST_S)

    clock.look = look
    with Other(several):
        asked()
    assert clock.looks >= 9 * calls


def test_a_turn_of_ones_own_can_be_taken_again() -> None:
    """A thread whose turn it is need not wait for itself, and the turn is free afterwards."""
    with held(), turn("outer"):
        asked()
    others: list[str] = []

    def another() -> None:
        asked()
        others.append("done")

    thread = threading.Thread(target=another)
    thread.start()
    thread.join(LONGEST_S)
    assert others == ["done"]
