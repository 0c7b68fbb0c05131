"""What torch's profiler writes to stderr on its own account stays away, and nothing else does."""

from __future__ import annotations

import os
from typing import Any

import pytest

from xsp.measuring.afterwards import kineto_lines

USDT = b"USDT: profiler_start\n"
BLOCK = (
    b"[W1129 09:00:00.1 CPUAllocator.cpp:249] Memory block of unknown size was allocated before "
    b"the profiling started, profiler results will not include the deallocation event\n"
)


class Writing:
    """A profiler that writes these lines when it starts and when it stops."""

    def __init__(self, *lines: bytes) -> None:
        self._lines = lines

    def __enter__(self) -> None:
        for line in self._lines:
            os.write(2, line)

    def __exit__(self, *_: Any) -> None:
        self.__enter__()


def files() -> set[str]:
    """The files that are open."""
    return set(os.listdir("/proc/self/fd"))


def test_only_the_profilers_own_lines_are_kept_away(capfd: pytest.CaptureFixture[str]) -> None:
    """Both kinds of lines, as the profiler starts and as it stops; what the program writes, then
    and in between, is there whole and in order, and no file stays open.
    """
    before = files()
    with kineto_lines.profiled(Writing(USDT, b"one ", b"two\n", BLOCK, b"an USDT: too\n")):
        os.write(2, USDT)
    told = "one two\nan USDT: too\n"
    assert capfd.readouterr().err == told + USDT.decode() + told
    assert files() == before


def test_the_end_of_a_line_can_be_missing(capfd: pytest.CaptureFixture[str]) -> None:
    """What is written last is passed on, with or without the end of its line."""
    with kineto_lines.profiled(Writing(b"half")):
        pass
    assert capfd.readouterr().err == "halfhalf"


def test_an_error_of_the_profiler_leaves_stderr_as_it_was(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """It passes through, and the program's own lines are written as ever."""

    class Failing(Writing):
        def __exit__(self, *_: Any) -> None:
            raise RuntimeError("of the profiler")

    before = files()
    with (
        pytest.raises(RuntimeError, match="of the profiler"),
        kineto_lines.profiled(Failing(USDT)),
    ):
        pass
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "after\n"
    assert files() == before


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), MemoryError()])
def test_without_a_thread_all_lines_are_passed(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Where no thread can be had, the profiler runs all the same, and no file stays open."""

    def none(*_: Any) -> None:
        raise error

    monkeypatch.setattr("_thread.start_new_thread", none)
    before = files()
    with kineto_lines.profiled(Writing(USDT, b"own\n")):
        os.write(2, b"within\n")
    lines = USDT.decode() + "own\n"
    assert capfd.readouterr().err == lines + "within\n" + lines
    assert files() == before


def test_a_program_without_stderr_is_profiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service may have closed it."""

    def closed(_descriptor: int) -> int:
        raise OSError("bad file descriptor")

    monkeypatch.setattr("os.dup", closed)
    ran = []
    with kineto_lines.profiled(Writing()):
        ran.append(True)
    assert ran
