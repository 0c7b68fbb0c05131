"""Rounds in which the GPU was not itself."""

from __future__ import annotations

from dataclasses import asdict

import pytest
import torch
from captures import gpu_capture

import xsp
from xsp.machine.gpu_state import GpuState, GpuWatch, about_others, kept_rounds, suspect_rounds


def state(number: int, clock: int = 1980, throttled_by: str = "") -> GpuState:
    return GpuState(number, clock, 2619, 300.0, 50, throttled_by, 0)


def test_steady_rounds_are_all_kept_without_a_word() -> None:
    """A GPU at one clock that nothing throttles gives no warning."""
    states = [state(i, 1980 - 15 * (i % 2)) for i in range(8)]
    assert kept_rounds(states, 8, 5) == (set(range(8)), None)


def test_throttled_and_slow_rounds_are_left_out_and_said() -> None:
    """A few throttled rounds, or a few at another clock, are left out; the sentence says how many
    and why.
    """
    states = [state(i) for i in range(8)] + [
        state(8, throttled_by="power cap"),
        state(9, clock=1200),
    ]
    assert suspect_rounds(states) == {8, 9}
    kept, sentence = kept_rounds(states, 10, 5)
    assert kept == set(range(8))
    assert sentence is not None
    assert "2 of 10 rounds (power cap)" in sentence
    assert "left out" in sentence


def throttled_in_the_second_round(monkeypatch: pytest.MonkeyPatch, rounds: int) -> xsp.Profile:
    """A profile of so many rounds."""

    class Watch(GpuWatch):
        def read(self, number: int) -> None:
            assert number == len(self.states)
            self.states.append(state(number, throttled_by="power cap" if number == 1 else ""))

    monkeypatch.setattr("xsp.measuring.profiling.GpuWatch", Watch)
    return xsp.measure(torch.ones, 2, levels="M", iterations=rounds, warmup=1, progress=False)


def test_a_throttled_round_is_in_no_number_where_enough_are_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its runs are not in the profile; of five rounds, the fewest that count, all are kept."""
    prof = throttled_in_the_second_round(monkeypatch, rounds=6)
    assert prof.runs["round"].unique().tolist() == [0, 2, 3, 4, 5]
    assert "left out" in next(each for each in prof.warnings if "[throttled]" in each)
    prof = throttled_in_the_second_round(monkeypatch, rounds=5)
    assert prof.runs["round"].unique().tolist() == [0, 1, 2, 3, 4]
    assert "1 of 5 rounds" in next(each for each in prof.warnings if "[throttled]" in each)


def test_a_gpu_that_is_always_throttled_is_measured_as_it_is() -> None:
    """Where most rounds are throttled none is left out, and the profile says that it mixes
    states.
    """
    states = [state(i, throttled_by="power cap" if i > 1 else "") for i in range(8)]
    kept, sentence = kept_rounds(states, 8, 5)
    assert kept == set(range(8))
    assert sentence is not None
    assert "kept" in sentence


def test_a_gpu_that_is_throttled_throughout_mixes_nothing() -> None:
    """Where every round is throttled, the sentence does not speak of two states."""
    _, sentence = kept_rounds([state(i, throttled_by="power cap") for i in range(8)], 8, 5)
    assert sentence is not None
    assert "those of a GPU in this state" in sentence
    assert "mix" not in sentence


def test_other_processes_on_the_gpu_are_said() -> None:
    """Work of other processes makes times longer, and a warning says in how many rounds there were
    any.
    """
    states = [GpuState(i, 1980, 2619, 300.0, 50, "", 2 * (i > 5)) for i in range(8)]
    assert about_others(states[:6], 6) == []
    assert "other processes (up to 2) used the GPU in 2 of 8 rounds" in about_others(states, 8)[0]


def test_rounds_are_marked_in_the_profile() -> None:
    """`prof.gpu_states` tells which rounds were suspect, and which of these were left out."""
    capture = gpu_capture()
    last = int(capture.tables["runs"]["round"].max())
    states = [asdict(state(number)) for number in range(last + 1)]
    states += [
        asdict(state(last + 1, throttled_by="power cap")),
        asdict(state(last + 2, clock=1200)),
    ]
    capture.meta["gpu_states"] = states
    found = xsp.Profile(capture).gpu_states
    assert found.loc[found["suspect"], "round"].tolist() == [last + 1, last + 2]
    assert found.loc[found["left_out"], "round"].tolist() == [last + 1, last + 2]


def test_environment_has_the_range_of_what_was_seen() -> None:
    """Clocks, power and temperature from lowest to highest, causes of throttling, and other
    processes.
    """
    watch = GpuWatch()
    assert watch.ranges() == {}
    watch.states = [
        state(0),
        state(1, 1200, "power cap"),
        GpuState(2, 1980, 2619, 420.0, 61, "", 1),
    ]
    assert watch.ranges() == {
        "sm_clock_mhz": [1200, 1980],
        "power_w": [300.0, 420.0],
        "temperature_c": [50, 61],
        "throttled_by": ["power cap"],
        "other_processes": 1,
    }


def test_no_readings_keep_every_round() -> None:
    """Without NVML every round counts."""
    assert kept_rounds([], 4, 5) == ({0, 1, 2, 3}, None)
