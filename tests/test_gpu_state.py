"""Rounds in which the GPU was not itself."""

from __future__ import annotations

from xsp.machine.gpu_state import GpuState, kept_rounds, suspect_rounds


def state(number: int, clock: int = 1980, throttled_by: str = "") -> GpuState:
    return GpuState(number, clock, 2619, 300.0, 50, throttled_by, 0)


def test_steady_rounds_are_all_kept_without_a_word() -> None:
    """A GPU at one clock that nothing throttles gives no warning."""
    states = [state(i, 1980 - 15 * (i % 2)) for i in range(8)]
    assert kept_rounds(states, 8, 5) == (set(range(8)), None)


def test_throttled_and_slow_rounds_are_left_out_and_said() -> None:
    """A few throttled rounds, or a few at another clock, are left out; the sentence says how many and why."""
    states = [state(i) for i in range(8)] + [state(8, throttled_by="power cap"), state(9, clock=1200)]
    assert suspect_rounds(states) == {8, 9}
    kept, sentence = kept_rounds(states, 10, 5)
    assert kept == set(range(8))
    assert sentence is not None
    assert "2 of 10 rounds (power cap)" in sentence
    assert "left out" in sentence


def test_a_gpu_that_is_always_throttled_is_measured_as_it_is() -> None:
    """Where most rounds are throttled none is left out, and the profile says that it mixes states."""
    states = [state(i, throttled_by="power cap" if i > 1 else "") for i in range(8)]
    kept, sentence = kept_rounds(states, 8, 5)
    assert kept == set(range(8))
    assert sentence is not None
    assert "kept" in sentence


def test_no_readings_keep_every_round() -> None:
    """Without NVML every round counts."""
    assert kept_rounds([], 4, 5) == ({0, 1, 2, 3}, None)
