"""Signals and exceptions of other threads wait while something is switched, and arrive
afterwards.
"""

from __future__ import annotations

import _thread
import ctypes
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


def said_by(program: str, *arguments: str) -> str:
    """What a Python program prints."""
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=240,
        cwd=TESTED,
    )
    return done.stdout.strip()


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
@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT"])
def test_a_child_of_another_thread_is_interruptible(number: str) -> None:
    """A process forked by a thread, while the main thread holds signals off, gets its signals."""
    program = """
import os, signal, sys, threading
from xsp.levels._native.signals import held

number = signal.Signals[sys.argv[1]]
signal.signal(number, lambda *_: os._exit(7))

def fork():
    child = os.fork()
    if child == 0:
        os.kill(os.getpid(), number)
        for _ in range(10**6): pass
        os._exit(1)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

with held():
    thread = threading.Thread(target=fork)
    thread.start()
    thread.join()
"""
    assert said_by(program, number) == "7"


needs_native = pytest.mark.skipif(
    _native.why_missing() is not None, reason="without C exceptions of other threads are not held"
)


def on_every_thread(test: Callable[[], None]) -> None:
    """Run a test on this thread and on one of its own; what it raises there is raised here."""
    test()
    raised: list[BaseException] = []

    def run() -> None:
        try:
            test()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]


def throw(exception: type[Exception] = Leaving) -> None:
    """Another thread has Python raise an exception in this one, which gets the time for it."""
    target = ctypes.c_ulong(threading.get_ident())
    set_exception = ctypes.pythonapi.PyThreadState_SetAsyncExc
    thread = threading.Thread(target=set_exception, args=(target, ctypes.py_object(exception)))
    thread.start()
    thread.join()
    for _ in range(1000):
        pass


@needs_native
def test_an_exception_of_another_thread_arrives_at_the_end_of_the_block() -> None:
    """On any thread what another one raises waits for the end of the block, once, and outside of
    it arrives at once.
    """

    def block(reached: list[str]) -> None:
        with held():
            with held():
                throw()
            reached.append("end of the block")
        reached.append("after the block")

    def at_once(reached: list[str]) -> None:
        throw()
        reached.append("not reached")

    def test() -> None:
        assert interrupted(block) == ["end of the block"]
        assert interrupted(at_once) == []

    on_every_thread(test)


@needs_native
def test_the_program_inside_can_be_ended_by_another_thread() -> None:
    """In `let_through` the exception is raised at once, also one that came before, and outside of
    it exceptions are held again.
    """

    def through(reached: list[str]) -> None:
        with let_through():
            throw()
            reached.append("not reached")

    def before(reached: list[str]) -> None:
        with held():
            throw()
            reached.append("switched")
            with let_through():
                reached.append("not reached")

    def block(reached: list[str]) -> None:
        with held():
            assert interrupted(through) == []
            throw()
            reached.append("end of the block")

    def test() -> None:
        assert interrupted(block) == ["end of the block"]
        assert interrupted(before) == ["switched"]

    on_every_thread(test)


@needs_native
def test_a_deadline_that_is_called_off_in_time_never_arrives() -> None:
    """Who takes back the exception that it set for a thread, as timers do, takes back a held one
    too; of two the later is raised.
    """

    class Later(Exception):
        """The second one."""

    def twice() -> None:
        with held():
            throw()
            throw(Later)

    def test() -> None:
        with held():
            throw()
            target = ctypes.c_ulong(threading.get_ident())
            ctypes.pythonapi.PyThreadState_SetAsyncExc(target, None)
        with pytest.raises(Later):
            twice()

    on_every_thread(test)


@needs_native
def test_a_child_forked_in_a_block_can_be_interrupted() -> None:
    """In a process that is forked while exceptions are held they are raised once a block has
    ended, and at once outside of it.
    """
    program = """
import ctypes, os, threading
from xsp.levels._native.signals import held, let_through

def throw():
    target = ctypes.c_ulong(threading.get_ident())
    ctypes.pythonapi.PyThreadState_SetAsyncExc(target, ctypes.py_object(OverflowError))
    for _ in range(10**4): pass

def ends(thrown):
    try:
        thrown()
    except OverflowError:
        return True
    return False

def block():
    with held():
        throw()
        reached.append("end")

reached = []
with held():
    child = os.fork()
    if child == 0:
        with let_through():
            ended = ends(block) and ends(throw) and reached == ["end"]
            os._exit(7 if ended else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert said_by(program) == "7"


@pytest.mark.usefixtures("blocks")
def test_an_interrupt_of_another_thread_waits_as_a_signal_does() -> None:
    """`_thread.interrupt_main`, for which no signal is sent, runs the program's handler once, after
    the block or in `let_through`, and the handler stays what it was.
    """

    def leave(_number: int, _frame: object) -> None:
        raise Leaving

    def interrupt() -> None:
        thread = threading.Thread(target=_thread.interrupt_main)
        thread.start()
        thread.join()

    def block(reached: list[str]) -> None:
        with held():
            interrupt()
            reached.append("end of the block")
        reached.append("after the block")

    def through(reached: list[str]) -> None:
        with held():
            interrupt()
            reached.append("switched")
            with let_through():
                for _ in range(1000):
                    pass
                reached.append("not reached")

    before = signal.signal(signal.SIGINT, leave)
    try:
        assert interrupted(block) == ["end of the block"]
        assert interrupted(through) == ["switched"]
        assert signal.getsignal(signal.SIGINT) is leave
    finally:
        signal.signal(signal.SIGINT, before)
