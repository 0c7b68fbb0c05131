"""LIBRARY level: interception of library calls, shown on fake libraries with the real ones' names
and signatures.
"""

from __future__ import annotations

import _ctypes
import ctypes
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_libraries import FLAVOURS, compile_library, fake, load_importer, names, received, record
from quick import TESTED

from xsp.errors import TracingError
from xsp.levels import _native
from xsp.levels._native import interpose
from xsp.levels.library.tracer import LibraryTracer, availability, decode_arguments
from xsp.types import LIBRARY_EVENTS, Level

pytest_plugins = ["fake_libraries"]
pytestmark = [
    pytest.mark.usefixtures("no_slot_left_patched"),
    pytest.mark.skipif(_native.why_missing() is not None, reason=str(_native.why_missing())),
]


def image_of(path: Path) -> list[tuple[str, bytes]]:
    """Address range with protection, and bytes, of everything a loaded file has in memory except
    its code.
    """
    image = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        if line.endswith(str(path)):
            span, protection = line.split()[:2]
            begin, end = (int(bound, 16) for bound in span.split("-"))
            image.append((f"{span} {protection}", ctypes.string_at(begin, end - begin)))
    return image


def slot_of(path: Path, symbol: str) -> int:
    """Address of the import slot of a symbol, from the file's relocations."""
    lines = subprocess.run(
        ["readelf", "-rW", str(path)], capture_output=True, text=True, check=True
    ).stdout.split("\n")
    offset = next(int(line.split()[0], 16) for line in lines if line.split()[4:5] == [symbol])
    return int(image_of(path)[0][0].split("-")[0], 16) + offset


def test_arguments_and_results_pass_unchanged(any_importer: ctypes.CDLL, fakes: Path) -> None:
    """Negative ints, pointers, 64-bit values, 25 arguments, doubles and results arrive as without
    tracing.
    """
    untraced = any_importer.blend(1.25, 7)

    def calls() -> None:
        assert any_importer.sgemm(-3, 4, 5) == -15
        assert received(fakes, 14) == [1, 0, 1, -3, 4, 5, 7, 8, -9, 10, 11, 12, 13, -14]
        assert any_importer.gemm_strided(3, 4, 5, 6) == -15
        strided = [
            1,
            1,
            0,
            3,
            4,
            5,
            7,
            8,
            14,
            10,
            -11,
            12,
            14,
            14,
            1 << 40,
            16,
            17,
            14,
            19,
            20,
            6,
            77,
            -1,
        ]
        assert received(fakes, 23) == strided
        assert any_importer.many(-1) == -15
        assert received(fakes, 25) == [-1, *range(2, 25), -25]
        assert (
            any_importer.blend(1.25, 7)
            == untraced
            == 1.25 + 3 + 6 + 12 + 20 + 30 + 42 + 56 + 72 - 21
        )

    tracer, events = record(calls)
    expected = ["cublasSgemm_v2", "cublasGemmStridedBatchedEx", "cublasFakeMany", "cublasFakeBlend"]
    assert names(tracer, events) == expected


def test_slots_and_protection_are_restored(build_importer: Callable[[str, str], Path]) -> None:
    """After `stop` an importer's memory is what it was, byte for byte, and read-only pages are
    read-only again.
    """
    for flavour in FLAVOURS:
        path = build_importer(f"restored_{flavour.replace(' ', '_')}", flavour)
        importer = load_importer(path)
        before = image_of(path)
        tracer = LibraryTracer()
        tracer.start()
        importer.sgemm(1, 2, 3)
        during = image_of(path)
        tracer.stop()
        assert [where for where, _ in during] == [where for where, _ in before]
        assert during != before
        assert image_of(path) == before


def test_slots_are_restored_when_the_target_raises(importer: ctypes.CDLL) -> None:
    """`stop` in a `finally` leaves nothing patched, and stopping a tracer that never started is
    harmless.
    """
    with pytest.raises(ctypes.ArgumentError):
        record(lambda: importer.sgemm(object(), 4, 5))
    LibraryTracer().stop()
    assert interpose.functions().xsp_interpose_patched() == 0


def test_a_slot_taken_over_by_another_tool_stays_its_own(
    build_importer: Callable[[str, str], Path],
) -> None:
    """What someone else writes into a slot while recording is still there after `stop`, and is
    called next time.
    """
    path = build_importer("taken_over", "lazy")
    importer = load_importer(path)
    tracer = LibraryTracer()
    tracer.start()
    slot = ctypes.c_uint64.from_address(slot_of(path, "cublasSgemm_v2"))
    other = ctypes.CFUNCTYPE(ctypes.c_int)(lambda: 77)
    slot.value = ctypes.cast(other, ctypes.c_void_p).value or 0
    tracer.stop()
    assert importer.sgemm(1, 2, 3) == 77
    tracer.start()
    assert importer.sgemm(1, 2, 3) == 77
    tracer.stop()
    assert names(tracer, tracer.collect()["library_events"]) == ["cublasSgemm_v2"]
    assert slot.value == ctypes.cast(other, ctypes.c_void_p).value


def test_events_follow_the_schema(importer: ctypes.CDLL) -> None:
    """Columns have the contract's types, times lie within the run on the monotonic clock, rows are
    in order.
    """
    begin = time.perf_counter_ns()
    tracer, events = record(lambda: importer.sgemm_many_times(50))
    end = time.perf_counter_ns()
    assert tracer.level is Level.LIBRARY
    assert {name: column.dtype for name, column in events.items()} == {
        name: dtype.base for name, dtype in LIBRARY_EVENTS.items()
    }
    assert events["arguments"].shape == (50, 8)
    assert (events["thread"] == threading.get_ident() & 0xFFFFFFFF).all()
    assert begin <= events["start_ns"][0]
    assert (events["start_ns"] <= events["end_ns"]).all()
    assert (events["end_ns"][:-1] <= events["start_ns"][1:]).all()
    assert events["end_ns"][-1] <= end
    assert tracer.lost() == 0


def test_a_library_calling_another_is_one_call(importer: ctypes.CDLL, fakes: Path) -> None:
    """cuBLAS working through cuBLASLt is one cuBLAS call; the caller's own cuBLASLt call is
    traced.
    """
    calls = ctypes.c_int64.in_dll(fake(fakes, "libcublasLt"), "fake_lt_calls")
    before = calls.value
    tracer, events = record(
        lambda: (importer.gemm_ex(1, 2, 3), importer.lt_matmul(None, None, None, None))
    )
    assert calls.value - before == 2
    assert names(tracer, events) == ["cublasGemmEx", "cublasLtMatmul"]


def test_a_call_from_inside_a_call_is_not_traced_twice(importer: ctypes.CDLL) -> None:
    """A library that calls back into code which calls the library again makes one span."""
    inner = ctypes.CFUNCTYPE(None)(lambda: importer.sgemm(1, 2, 3))
    tracer, events = record(lambda: importer.call(inner))
    assert names(tracer, events) == ["cublasFakeCall"]
    assert tracer.lost() == 0


def test_threads_keep_their_own_records(importer: ctypes.CDLL) -> None:
    """Four threads that then exit leave 2 500 calls each, in order, under their own thread
    number.
    """
    idents = []
    barrier = threading.Barrier(4)

    def work() -> None:
        idents.append(threading.get_ident() & 0xFFFFFFFF)
        barrier.wait()
        importer.sgemm_many_times(2500)

    def calls() -> None:
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    tracer, events = record(calls)
    assert tracer.lost() == 0
    assert sorted(set(events["thread"].tolist())) == sorted(idents)
    for ident in idents:
        m = decode_arguments("cublasSgemm_v2", events["arguments"][events["thread"] == ident])["m"]
        assert m.tolist() == list(range(2500))


def test_a_call_still_running_at_stop_is_counted_lost(importer: ctypes.CDLL) -> None:
    """A call that outlives its run returns safely, is counted lost, and does not show up in the
    next run.
    """
    tracer = LibraryTracer()
    tracer.start()
    sleeper = threading.Thread(target=importer.nap, args=(150,))
    sleeper.start()
    threading.Event().wait(0.05)
    tracer.stop()
    tracer.start()
    importer.sgemm(1, 2, 3)
    sleeper.join()
    tracer.stop()
    assert names(tracer, tracer.collect()["library_events"]) == ["cublasSgemm_v2"]
    assert tracer.lost() == 1
    assert tracer.lost() == 0


def test_a_library_loaded_later_is_traced_from_the_next_start(
    build_importer: Callable[[str, str], Path],
) -> None:
    """Importers loaded between two runs, as libtorch_cuda_linalg is, are found by the second."""
    path = build_importer("loaded_later", "lazy")
    tracer = LibraryTracer()
    tracer.start()
    tracer.stop()
    importer = load_importer(path)
    tracer.start()
    importer.sgemm(1, 2, 3)
    tracer.stop()
    assert names(tracer, tracer.collect()["library_events"]) == ["cublasSgemm_v2"]


def test_a_library_loaded_while_recording_is_told(
    build_importer: Callable[[str, str], Path],
) -> None:
    """Its calls cannot be seen, so the run says that something is missing; the next one is
    complete.
    """
    path = build_importer("loaded_while_recording", "lazy")
    tracer, events = record(lambda: load_importer(path).sgemm(1, 2, 3))
    assert len(events["symbol"]) == 0
    assert tracer.lost() == 1
    tracer.start()
    tracer.stop()
    assert tracer.lost() == 0


def test_a_library_unloaded_while_recording_is_survived(
    build_importer: Callable[[str, str], Path],
) -> None:
    """`stop` writes nothing to an importer that was closed, nor to one loaded in its place; that
    one is traced next.
    """
    path = build_importer("unloaded", "full relro")
    importer = load_importer(path)
    tracer = LibraryTracer()
    tracer.start()
    importer.sgemm(1, 2, 3)
    _ctypes.dlclose(importer._handle)
    assert image_of(path) == []
    importer = load_importer(path)
    before = image_of(path)
    tracer.stop()
    assert image_of(path) == before
    tracer.start()
    importer.sgemm(4, 5, 6)
    tracer.stop()
    assert image_of(path) == before
    assert tracer.collect()["library_events"]["arguments"][:, 2].tolist() == [1, 4]


def test_calls_beyond_the_limit_are_counted(importer: ctypes.CDLL) -> None:
    """Every call is either in the events or in `lost`, and a collection makes room again."""
    for _ in range(2):
        tracer, events = record(lambda: importer.sgemm_many_times(5000), record_limit=1024)
        lost = tracer.lost()
        assert lost > 0
        assert len(events["symbol"]) >= 1024
        assert len(events["symbol"]) + lost == 5000


def test_only_one_tracer_records(
    importer: ctypes.CDLL, build_importer: Callable[[str, str], Path]
) -> None:
    """A second tracer is refused with the way out, also after libraries changed; the first goes on
    undisturbed.
    """
    closed = load_importer(build_importer("closed", "lazy"))
    first = LibraryTracer()
    first.start()
    _ctypes.dlclose(closed._handle)
    with pytest.raises(TracingError, match="stop that one first"):
        LibraryTracer(structure=True).start()
    importer.sgemm(1, 2, 3)
    first.stop()
    assert names(first, first.collect()["library_events"]) == ["cublasSgemm_v2"]


@pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler")
def test_exceptions_pass_through(fakes: Path) -> None:
    """An exception thrown inside a call reaches its handler; that call counts as lost and the next
    one is traced.
    """
    path = compile_library(fakes / "thrower.so", "thrower.cpp", libraries=("cublas",))
    thrower = ctypes.CDLL(str(path))
    tracer, events = record(thrower.caught)
    assert names(tracer, events) == ["cublasSgemm_v2"]
    assert tracer.lost() == 1


def test_availability_names_the_way_out() -> None:
    """In a process without CUDA libraries one sentence says so; with an importer loaded nothing
    stands in the way.
    """
    code = "import xsp.levels.library.tracer as l; print(l.availability())"
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=TESTED, capture_output=True, text=True, check=True)
    assert "install a CUDA build of torch" in result.stdout


def test_availability_with_an_importer(importer: ctypes.CDLL) -> None:
    """A loaded importer of cuBLAS is enough."""
    assert availability() is None


@pytest.mark.gpu
def test_pytorch_on_a_gpu() -> None:
    """A linear layer and a convolution reach cuBLASLt and cuDNN with the shapes of the model,
    outputs unchanged.
    """
    import torch

    linear = torch.nn.Linear(64, 48, device="cuda", dtype=torch.float16)
    convolution = torch.nn.Conv2d(
        16, 32, 3, stride=2, padding=1, groups=2, device="cuda", dtype=torch.float16
    )
    rows, image = (
        torch.randn(9, 64).to("cuda", torch.float16),
        torch.randn(2, 16, 14, 14).to("cuda", torch.float16),
    )
    expected = linear(rows), convolution(image)
    outputs: list[Any] = []
    tracer, events = record(
        lambda: outputs.extend((linear(rows), convolution(image))), structure=True
    )
    assert all(torch.equal(a, b) for a, b in zip(outputs, expected, strict=True))
    calls = dict(zip(names(tracer, events), tracer.details, strict=True))
    assert {"m": 48, "n": 9, "k": 64, "flops": 2 * 48 * 9 * 64}.items() <= calls[
        "cublasLtMatmul"
    ].items()
    (operation,) = calls["cudnnBackendExecute"]["operations"]
    assert operation["X"]["dims"] == [2, 16, 14, 14]
    assert calls["cudnnBackendExecute"]["flops"] == 2 * (2 * 32 * 7 * 7) * (8 * 3 * 3)
    assert tracer.lost() == 0
