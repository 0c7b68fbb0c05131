"""What a profile's progress bar says: the phase, and how much of its time or rounds is over."""

from __future__ import annotations

import io
import sys

import pytest

from xsp.measuring.afterwards import memory, serialized
from xsp.measuring.deadline import Deadline
from xsp.measuring.options import Options
from xsp.measuring.progress import bar, phases


class Terminal(io.StringIO):
    """What somebody who watches reads."""

    def isatty(self) -> bool:
        return True


def watched(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Somebody watches from now on. Not a fixture: pytest sets stderr anew before a test's call."""
    made = Terminal()
    monkeypatch.setattr("sys.stderr", made)
    return made


def test_a_bar_is_shown_where_somebody_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal, unless it is switched off; elsewhere only where it is switched on."""
    watched(monkeypatch)
    assert not bar("x", 3, None).disable
    assert bar("x", 3, show=False).disable
    monkeypatch.setattr("sys.stderr", io.StringIO())
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    assert bar("x", 3, None).disable
    assert not bar("x", 3, show=True).disable


def test_nothing_is_shown_in_the_first_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """A short profile writes nothing."""
    terminal = watched(monkeypatch)
    with bar("xsp Net", 3, None) as shown:
        shown.update(1)
    assert terminal.getvalue() == ""
    assert shown.delay == 1
    assert not shown.leave


def test_rounds_are_counted_where_their_number_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bar is full after the last round, and says the phase."""
    watched(monkeypatch)
    options = Options.of(iterations=3)
    with phases("xsp Net", options, Deadline.of(options)) as shown:
        inner = shown._shown
        shown.begin("warm-up")
        assert (inner.total, inner.n, inner.desc) == (3, 0, "xsp Net: warm-up")
        for _ in range(3):
            shown.step(rounds=1)
        assert inner.n == 3


def test_the_time_is_shown_where_it_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bar is as full as the time is spent, and never more than full."""
    watched(monkeypatch)
    now = [50.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    options = Options.of(budget_s=10)
    with phases("xsp Net", options, Deadline.of(options)) as shown:
        inner = shown._shown
        now[0] += 4
        shown.begin("rounds")
        assert inner.total == 10
        assert inner.n == pytest.approx(4)
        now[0] += 3
        shown.step(rounds=1)
        assert inner.n == pytest.approx(7)
        now[0] += 9
        shown.step(rounds=1)
        assert inner.n == pytest.approx(10)


def test_runs_after_the_rounds_are_expected_to_take_as_long_as_they_do() -> None:
    """Seven runs and as many that settle; the time is kept from the rounds by this."""
    assert serialized.expected_s(1e9) == 14
    assert serialized.expected_s(5e8) == 7
    assert memory.expected_s(2.0, 9) > memory.expected_s(1.0, 9) > memory.expected_s(1.0, 0) > 0
