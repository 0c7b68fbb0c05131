"""Signals wait while something is switched, and arrive afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import pytest
from quick import TESTED

from xsp.levels import _native
from xsp.levels._native import signals
from xsp.levels._native.signals import held, let_through


class Leaving(Exception):
    """What the handler raises."""


@pytest.fixture(params=["native", "python"])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Both ways of holding signals off."""
    if request.param == "native" and _native.why_missing() is not None:
        pytest.skip(str(_native.why_missing()))
    if request.param == "python":
        monkeypatch.setattr(_native, "why_missing", lambda: "left out for this test")
    signals._blocks.cache_clear()
    yield
    monkeypatch.undo()
    signals._blocks.cache_clear()


@pytest.fixture(autouse=True)
def raising_handler() -> Iterator[object]:
    """SIGTERM raises."""

    def leave(_number: int, _frame: object) -> None:
        raise Leaving

    before = signal.signal(signal.SIGTERM, leave)
    yield leave
    assert signal.signal(signal.SIGTERM, before) is leave


def send() -> None:
    """The signal, and the time that Python needs to run a handler."""
    os.kill(os.getpid(), signal.SIGTERM)
    for _ in range(1000):
        pass


def interrupted(block: Callable[[list[str]], None]) -> list[str]:
    """How far a block came before the handler's exception left it."""
    reached: list[str] = []
    try:
        block(reached)
    except Leaving:
        return reached
    pytest.fail("the signal's exception never arrived")


@pytest.mark.usefixtures("blocks")
def test_a_held_signal_arrives_at_the_end_of_the_block() -> None:
    """The handler runs once, after the block, and not in it."""

    def block(reached: list[str]) -> None:
        with held():
            send()
            reached.append("end of the block")
        reached.append("after the block")

    assert interrupted(block) == ["end of the block"]


@pytest.mark.usefixtures("blocks")
def test_the_program_stays_interruptible_inside() -> None:
    """In `let_through` a handler raises at once, and outside of it signals are held again."""

    def through(reached: list[str]) -> None:
        with let_through():
            send()
            reached.append("not reached")

    def block(reached: list[str]) -> None:
        with held():
            assert interrupted(through) == []
            send()
            reached.append("end of the block")

    assert interrupted(block) == ["end of the block"]


@pytest.mark.usefixtures("blocks")
def test_a_signal_held_before_the_program_goes_on_arrives_in_it() -> None:
    """What arrived while something was switched interrupts the program that runs next."""

    def block(reached: list[str]) -> None:
        with held():
            send()
            reached.append("switched")
            with let_through():
                for _ in range(1000):
                    pass
                reached.append("not reached")

    assert interrupted(block) == ["switched"]


@pytest.mark.usefixtures("blocks")
def test_a_handler_set_meanwhile_stays() -> None:
    """What the program decides about a signal inside the block is not undone by its end."""
    before = signal.getsignal(signal.SIGTERM)
    with held():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    os.kill(os.getpid(), signal.SIGTERM)
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("blocks")
def test_other_threads_hold_nothing() -> None:
    """Handlers run on the main thread: a block on another one must not keep them from it."""
    inside, done = threading.Event(), threading.Event()

    def block() -> None:
        with held():
            inside.set()
            done.wait()

    thread = threading.Thread(target=block)
    thread.start()
    inside.wait()
    try:
        with pytest.raises(Leaving):
            send()
    finally:
        done.set()
        thread.join()


@pytest.mark.skipif(_native.why_missing() is not None, reason="C keeps the dispositions")
def test_a_child_of_another_thread_is_interruptible() -> None:
    """A process forked by a thread, while the main thread holds signals off, gets its signals."""
    program = """
import os, signal, threading
from xsp.levels._native.signals import held

signal.signal(signal.SIGTERM, lambda *_: os._exit(7))

def fork():
    child = os.fork()
    if child == 0:
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(10**6): pass
        os._exit(1)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

with held():
    thread = threading.Thread(target=fork)
    thread.start()
    thread.join()
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        cwd=TESTED,
    )
    assert done.stdout.strip() == "7"
