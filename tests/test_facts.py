"""What a capture says outside its tables."""

from __future__ import annotations

import time
from pathlib import Path

import pandas as pd
import pytest
from quick import QUICK

import xsp
from xsp.measuring.facts import told
from xsp.types import Level, LevelStatus, Status


@pytest.fixture(scope="module")
def prof() -> xsp.Profile:
    """A profile of a function whose name no file can hold."""

    def half() -> None:
        pass

    half.__name__ = half.__qualname__ = "half\ud800"
    return xsp.measure(half, levels="M", **QUICK)


def test_names_are_written_whatever_they_are(prof: xsp.Profile, tmp_path: Path) -> None:
    """A name with half of a pair of surrogates is kept as far as Unicode goes, so that the capture
    is saved, and reads as it was.
    """
    assert prof.name.startswith("half")
    assert prof.name.isprintable()
    again = xsp.load(prof.save(tmp_path / "a.xsp"))
    assert again.name == prof.name
    assert again._capture.meta == prof._capture.meta


def test_stamps_can_be_put_on_the_wall_clock(prof: xsp.Profile) -> None:
    """With the offset that is kept they are of today, to the hour."""
    offset_ns = prof._capture.meta["epoch_offset_ns"]
    at_ns = int(prof.runs["start_ns"].iloc[-1]) + offset_ns
    assert abs(time.time_ns() - at_ns) < 3600e9


def test_levels_that_were_timed_alone_say_so() -> None:
    """On a separate ladder the events of a level repeat those of annotated runs; every other level
    keeps its reason.
    """
    statuses = [
        LevelStatus(level, "tracer", Status.TRACED, "why")
        for level in (Level.MODEL, Level.LIBRARY, Level.KERNEL)
    ]
    repeats = pd.DataFrame({"level": [int(Level.KERNEL)]})
    model, library, kernel = told(statuses, {}, {"repeats": repeats})
    assert (model.reason, library.reason) == ("why", "why")
    assert kernel.reason.startswith("timed alone")
    assert kernel.reason.endswith("; why")
    assert told(statuses, {}, {}) == statuses
