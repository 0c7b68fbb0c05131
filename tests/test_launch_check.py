"""Launches counted at their import slots, against CUPTI's records."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest
from fake_libraries import SOURCES, compile_library

from xsp.levels import _native
from xsp.levels.library.launches import VARIABLE, count_unrecorded, launch_domain
from xsp.levels.library.tracer import LibraryTracer
from xsp.types import API_CALLS, ApiDomain, Columns, empty

pytestmark = pytest.mark.skipif(
    _native.why_missing() is not None, reason=str(_native.why_missing())
)

FUNCTIONS = (
    "cudaLaunchKernel",
    "__cudaLaunchKernel",
    "cudaLaunchKernelExC",
    "cudaLaunchCooperativeKernel",
    "cuLaunchKernel",
    "cuLaunchKernelEx",
    "cuLaunchCooperativeKernel",
)
"""In the order in which the launcher calls them."""

NAMES = [name.lstrip("_") for name in FUNCTIONS]
"""By which name CUPTI would record each; the copy between two launches comes last."""
COPY = len(NAMES)
ROUNDS = 3
LAUNCHES = ROUNDS * len(FUNCTIONS)

LINKED = {
    "lazily": ("-Wl,-z,lazy",),
    "at once": ("-Wl,-z,now,-z,relro",),
    "without PLT": ("-fno-plt",),
}


def launcher_of(folder: Path, *options: str, runtime: str = "cudart") -> ctypes.CDLL:
    """A library that launches through a runtime whose symbols have a version, as since CUDA 13.
    Libraries of one name are one to the dynamic linker.
    """
    script = f"-Wl,--version-script={SOURCES / 'fake_cudart.map'}"
    compile_library(folder / f"lib{runtime}.so", "fake_cudart.c", script)
    path = compile_library(folder / "launcher.so", "launcher.c", *options, libraries=(runtime,))
    return ctypes.CDLL(str(path))


def traced(launcher: ctypes.CDLL) -> tuple[LibraryTracer, dict[str, Columns]]:
    """A tracer that has seen the launches, and what it collected."""
    tracer = LibraryTracer()
    tracer.start()
    try:
        assert launcher.launch(ROUNDS) == 0
    finally:
        tracer.stop()
    return tracer, tracer.collect()


@pytest.fixture
def launches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[LibraryTracer, dict[str, Columns]]:
    """A tracer that has seen launches by every function, and what it collected."""
    monkeypatch.setenv(VARIABLE, "1")
    return traced(launcher_of(tmp_path))


def records_of(tracer: LibraryTracer) -> Columns:
    """What CUPTI would have recorded: each launch, and a copy after each."""
    launches = tracer.launches
    records = empty(API_CALLS, 2 * LAUNCHES)
    for row in range(LAUNCHES):
        function = tracer.symbols[launches["symbol"][row]]
        kind = NAMES.index(function.lstrip("_"))
        for place, cbid in ((row, kind), (LAUNCHES + row, COPY)):
            records["domain"][place] = launch_domain(function)
            records["cbid"][place] = cbid
            records["thread"][place] = launches["thread"][row]
            records["start_ns"][place] = launches["start_ns"][row]
            records["end_ns"][place] = launches["end_ns"][row]
    return records


def missing(tracer: LibraryTracer, records: Columns) -> int:
    return count_unrecorded(tracer.launches, tracer.symbols, records, name_of)


def name_of(domain: int, cbid: int) -> str:
    copy = "cudaMemcpyAsync" if domain == ApiDomain.RUNTIME else "cuMemcpyAsync"
    return [*NAMES, copy][cbid]


@pytest.mark.parametrize("linked", LINKED)
def test_a_launch_is_seen_by_whatever_name_and_slot(
    linked: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the check on each launch is seen once, whichever function of a versioned runtime makes
    it and however its caller was linked, and none shows up among the library calls.
    """
    monkeypatch.setenv(VARIABLE, "1")
    tracer, tables = traced(launcher_of(tmp_path, *LINKED[linked]))
    seen = [tracer.symbols[symbol] for symbol in tracer.launches["symbol"]]
    assert seen == list(FUNCTIONS) * ROUNDS
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


def test_launches_outside_the_model_calls_are_not_compared(
    launches: tuple[LibraryTracer, Columns],
) -> None:
    """Before and after a model call CUPTI is switched on and off while the slots lead to the
    stubs: a launch of another thread then has no record and is not lost.
    """
    tracer, _ = launches
    seen = tracer.launches
    calls = {"start_ns": seen["start_ns"][5:6], "end_ns": seen["end_ns"][14:15]}
    assert tracer.missing_from({"api_calls": empty(API_CALLS)}, calls) == 10


def test_without_the_variable_launches_are_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check costs nothing where it is off: the slots of launches are not touched."""
    monkeypatch.delenv(VARIABLE, raising=False)
    tracer, _ = traced(launcher_of(tmp_path, runtime="cudart_unchecked"))
    assert len(tracer.launches["symbol"]) == 0
