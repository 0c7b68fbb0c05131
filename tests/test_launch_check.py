"""Launches counted at their import slots, against CUPTI's records."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest
from test_library import compile_library

from xsp.levels import _native
from xsp.levels.library.launches import VARIABLE, unrecorded
from xsp.levels.library.tracer import LibraryTracer
from xsp.types import API_CALLS, ApiDomain, Columns, empty

pytestmark = pytest.mark.skipif(
    _native.why_missing() is not None, reason=str(_native.why_missing())
)

NAMES = {1: "cudaLaunchKernel", 2: "cudaLaunchKernelExC", 3: "cudaMemcpyAsync"}
LAUNCHES = 10


@pytest.fixture
def launches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[LibraryTracer, dict[str, Columns]]:
    """A tracer that has seen ten launches, and what it collected."""
    monkeypatch.setenv(VARIABLE, "1")
    compile_library(tmp_path / "libcudart.so", "fake_cudart.c")
    launcher = ctypes.CDLL(
        str(compile_library(tmp_path / "launcher.so", "launcher.c", libraries=("cudart",)))
    )
    tracer = LibraryTracer()
    tracer.start()
    try:
        assert launcher.launch(LAUNCHES) == 0
    finally:
        tracer.stop()
    return tracer, tracer.collect()


def records_of(tracer: LibraryTracer) -> Columns:
    """What CUPTI would have recorded: each launch, and a copy after each."""
    launches = tracer.launches
    records = empty(API_CALLS, 2 * LAUNCHES)
    for row in range(LAUNCHES):
        kind = 1 + (tracer.symbols[launches["symbol"][row]] == "cudaLaunchKernelExC")
        for place, cbid in ((row, kind), (LAUNCHES + row, 3)):
            records["domain"][place] = ApiDomain.RUNTIME
            records["cbid"][place] = cbid
            records["thread"][place] = launches["thread"][row]
            records["start_ns"][place] = launches["start_ns"][row]
            records["end_ns"][place] = launches["end_ns"][row]
    return records


def missing(tracer: LibraryTracer, records: Columns) -> int:
    return unrecorded(
        tracer.launches, tracer.symbols, records, lambda _domain, cbid: NAMES[int(cbid)]
    )


def test_launches_are_counted_beside_library_calls(
    launches: tuple[LibraryTracer, Columns],
) -> None:
    """With the check on each launch is seen once, and none shows up among the library calls."""
    tracer, tables = launches
    seen = [tracer.symbols[symbol] for symbol in tracer.launches["symbol"]]
    assert seen == ["cudaLaunchKernel", "cudaLaunchKernelExC"] * (LAUNCHES // 2)
    assert len(tables["library_events"]["symbol"]) == 0
    assert tracer.lost() == 0


def test_every_record_that_is_not_there_is_missed(
    launches: tuple[LibraryTracer, Columns],
) -> None:
    """Whole records are no reason for a doubt; each record left out counts as one lost."""
    tracer, _ = launches
    records = records_of(tracer)
    assert missing(tracer, records) == 0
    for gone in ([0], [9], [2, 3, 4], range(LAUNCHES)):
        kept = np.setdiff1d(np.arange(2 * LAUNCHES), list(gone))
        some = {name: column[kept] for name, column in records.items()}
        assert missing(tracer, some) == len(list(gone))


def test_without_the_variable_launches_are_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check costs nothing where it is off: the slots of launches are not touched."""
    monkeypatch.delenv(VARIABLE, raising=False)
    compile_library(tmp_path / "libcudart_off.so", "fake_cudart.c")
    launcher = ctypes.CDLL(
        str(compile_library(tmp_path / "launcher.so", "launcher.c", libraries=("cudart_off",)))
    )
    tracer = LibraryTracer()
    tracer.start()
    launcher.launch(LAUNCHES)
    tracer.stop()
    tracer.collect()
    assert len(tracer.launches["symbol"]) == 0
