"""The KERNEL level over a CUPTI that behaves like the real one and delivers records made here."""

from __future__ import annotations

import ctypes
import gc
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("cupti.cupti", reason="cupti-python describes the records")


from fake_cupti import LAUNCH_KERNEL, PLAIN, FakeCupti, record

from xsp.levels._native.activity import ActivityBuffers
from xsp.levels.kernel import cupti
from xsp.levels.kernel.cupti import CuptiLibrary
from xsp.levels.kernel.cupti_clock import kept_clock
from xsp.levels.kernel.tracer import KernelTracer
from xsp.types import API_CALLS, DEVICE_ACTIVITY, SYNCHRONIZATIONS, ApiDomain, DeviceKind, Level

pytest_plugins = ["fake_cupti"]


def test_available_where_cupti_works(tracer: KernelTracer) -> None:
    """A CUPTI whose records arrive with a time makes the level available."""
    assert tracer.level is Level.KERNEL
    assert tracer.availability() is None


def test_kernel_record_becomes_a_row(tracer: KernelTracer, library: FakeCupti) -> None:
    """Every field that the schema keeps of a kernel is the one that CUPTI wrote."""
    before = time.monotonic_ns()
    fields: dict[str, Any] = {
        "correlation_id": 7,
        "device_id": 1,
        "context_id": 2,
        "stream_id": 13,
        "grid_x": 10,
        "grid_y": 20,
        "grid_z": 30,
        "block_x": 128,
        "block_y": 2,
        "block_z": 1,
        "registers_per_thread": 40,
        "static_shared_memory": 1024,
        "dynamic_shared_memory": 2048,
        "graph_id": 3,
        "graph_node_id": 3 << 32 | 5,
    }
    table = record(tracer, lambda: library.emit_kernel(**fields))["device_activity"]
    assert {name: table[name].dtype for name in table} == {
        name: dtype.subdtype[0] if dtype.subdtype else dtype
        for name, dtype in DEVICE_ACTIVITY.items()
    }
    row = {name: column[0].tolist() for name, column in table.items()}
    start, end, name = row.pop("start_ns"), row.pop("end_ns"), row.pop("name")
    assert before <= start <= end <= time.monotonic_ns()
    assert tracer.names[name] == "void at::native::elementwise_kernel<128, 4>(int)"
    assert row == {
        "kind": DeviceKind.KERNEL,
        "correlation_id": 7,
        "device": 1,
        "context": 2,
        "stream": 13,
        "bytes": 0,
        "grid": [10, 20, 30],
        "block": [128, 2, 1],
        "registers_per_thread": 40,
        "static_shared_bytes": 1024,
        "dynamic_shared_bytes": 2048,
        "graph": 3,
        "graph_node": 3 << 32 | 5,
    }


def test_api_call_becomes_a_row(tracer: KernelTracer, library: FakeCupti) -> None:
    """Runtime and driver calls share a table and keep thread and correlation id."""

    def emit() -> None:
        common = {"thread_id": 0xDEADBEEF, "correlation_id": 5}
        library.emit("RUNTIME", cbid=LAUNCH_KERNEL, **common)
        library.emit("DRIVER", cbid=307, **common)

    table = record(tracer, emit)["api_calls"]
    assert set(table) == set(API_CALLS)
    assert table["domain"].tolist() == [ApiDomain.RUNTIME, ApiDomain.DRIVER]
    assert table["thread"].tolist() == [0xDEADBEEF] * 2
    names = [
        cupti.api_name(*pair)
        for pair in zip(table["domain"].tolist(), table["cbid"].tolist(), strict=True)
    ]
    assert names == ["cudaLaunchKernel", "cuLaunchKernel"]


def test_copies_and_sets_have_names_and_sizes(tracer: KernelTracer, library: FakeCupti) -> None:
    """Copies are named by direction, peer copies included, and carry their bytes."""

    def emit() -> None:
        library.emit("MEMCPY", copy_kind=1, bytes=4096)
        library.emit("MEMCPY2", copy_kind=10, bytes=8192)
        library.emit("MEMSET", bytes=1 << 33)

    table = record(tracer, emit)["device_activity"]
    assert [tracer.names[i] for i in table["name"]] == ["memcpy HtoD", "memcpy PtoP", "memset"]
    assert table["kind"].tolist() == [DeviceKind.MEMCPY, DeviceKind.MEMCPY, DeviceKind.MEMSET]
    assert table["bytes"].tolist() == [4096, 8192, 1 << 33]


def test_synchronisations_keep_stream_and_event(tracer: KernelTracer, library: FakeCupti) -> None:
    """Waits keep their kind, stream and event."""

    def emit() -> None:
        library.emit("SYNCHRONIZATION", type=3, stream_id=7, cuda_event_id=9, correlation_id=11)

    tables = record(tracer, emit)
    waits = tables["synchronizations"]
    assert set(waits) == set(SYNCHRONIZATIONS)
    assert (waits["kind"][0], waits["stream"][0], waits["event_id"][0]) == (3, 7, 9)


def test_many_buffers_keep_every_record(tracer: KernelTracer, library: FakeCupti) -> None:
    """More records than fit the preallocated buffers arrive complete, each once, in order
    of start.
    """
    count = 400_000
    records = np.zeros(count, cupti.layout("CONCURRENT_KERNEL"))
    records["kind"] = cupti.kind("CONCURRENT_KERNEL")
    records["name"] = ctypes.addressof(PLAIN)
    records["correlation_id"] = np.arange(count)

    def emit() -> None:
        records["start"] = records["end"] = library.timestamp() + np.arange(count)
        library.controls.fake_emit(
            records.ctypes.data_as(ctypes.c_char_p), ctypes.c_size_t(records.nbytes)
        )

    table = record(tracer, emit)["device_activity"]
    assert table["correlation_id"].tolist() == list(range(count))
    assert tracer.lost() == 0
    assert "ampere_sgemm_128x64_nn" in tracer.names


def test_dropped_records_are_counted(library: FakeCupti) -> None:
    """Records for which the pool had no buffer are told by lost(), before and after collect()."""
    buffers = ActivityBuffers(buffer_bytes=4096, keep=1, limit=2)
    tracer = KernelTracer(library, lambda: None, library.emit_kernel, buffers)
    tracer.start()
    for _ in range(100):
        library.emit_kernel()
    tracer.stop()
    room = 2 * (4096 // cupti.layout("CONCURRENT_KERNEL").itemsize)
    assert tracer.lost() == 100 - room
    assert len(tracer.collect()["device_activity"]["start_ns"]) == room
    assert tracer.lost() == 100 - room
    record(tracer, library.emit_kernel)
    assert tracer.lost() == 0


def test_records_without_time_are_lost_not_shown(tracer: KernelTracer, library: FakeCupti) -> None:
    """A stamp of 0, or one after the GPU went idle, makes a record lost and never a row."""

    def emit() -> None:
        library.emit_kernel(start=0, end=0)
        library.emit_kernel(start=library.timestamp() + 10**12, end=library.timestamp() + 10**12)
        library.emit("RUNTIME", end=0)
        library.emit_kernel()

    tables = record(tracer, emit)
    assert len(tables["device_activity"]["start_ns"]) == 1
    assert tracer.lost() == 3


def test_late_delivery_does_not_leak_into_the_next_session(
    tracer: KernelTracer, library: FakeCupti
) -> None:
    """Records delivered after a session was collected are counted as lost and appear in no later
    table.
    """
    tracer.start()
    library.emit_kernel(correlation_id=1)
    tracer.stop()
    tracer.collect()
    library.enable(cupti.kind("CONCURRENT_KERNEL"))
    library.emit_kernel(correlation_id=2)
    library.disable(cupti.kind("CONCURRENT_KERNEL"))
    library.controls.fake_deliver()
    table = record(tracer, lambda: library.emit_kernel(correlation_id=3))["device_activity"]
    assert table["correlation_id"].tolist() == [3]
    assert tracer.lost() == 1


def test_sessions_add_up_until_collected(tracer: KernelTracer, library: FakeCupti) -> None:
    """collect() gives all sessions since the last collect(), once."""
    for number in (1, 2):
        tracer.start()
        library.emit_kernel(correlation_id=number)
        tracer.stop()
    assert tracer.collect()["device_activity"]["correlation_id"].tolist() == [1, 2]
    assert len(tracer.collect()["device_activity"]["start_ns"]) == 0


def test_own_synchronisation_is_not_the_programs(library: FakeCupti) -> None:
    """API calls that stop() itself makes, to wait for the GPU, are in no table; the kernels it
    waits for are.
    """

    def synchronize() -> None:
        library.emit("RUNTIME", cbid=165, correlation_id=99)
        library.emit_kernel(correlation_id=1)

    tracer = KernelTracer(library, synchronize=synchronize, probe=library.emit_kernel)
    tables = record(tracer, lambda: library.emit("RUNTIME", correlation_id=1))
    assert tables["api_calls"]["correlation_id"].tolist() == [1]
    assert tables["device_activity"]["correlation_id"].tolist() == [1]


class _BusyCupti(FakeCupti):
    """A process whose other threads go on launching while the session is being stopped."""

    def disable(self, activity_kind: int) -> None:
        self.emit("RUNTIME", correlation_id=98)
        self.emit_kernel(correlation_id=98)
        super().disable(activity_kind)


def test_work_of_other_threads_during_stop_is_left_out(library: FakeCupti) -> None:
    """What other threads launch while stop() runs is neither in the tables nor told as lost."""
    tracer = KernelTracer(_BusyCupti(library.path), lambda: None, library.emit_kernel)
    tables = record(tracer, lambda: library.emit_kernel(correlation_id=1))
    assert tables["device_activity"]["correlation_id"].tolist() == [1]
    assert tables["api_calls"]["correlation_id"].tolist() == []
    assert tracer.lost() == 0


def test_zero_stamps_under_the_callback_fall_back_to_pairing(library: FakeCupti) -> None:
    """Where CUPTI gives zero stamps under xsp's clock, its own clock is used and mapped instead."""
    first_probe = iter([{"start": 0, "end": 0}])
    tracer = KernelTracer(
        library, lambda: None, lambda: library.emit_kernel(**next(first_probe, {}))
    )
    before = time.monotonic_ns()
    table = record(tracer, library.emit_kernel)["device_activity"]
    assert tracer.clock.method == "paired clocks"
    error = tracer.clock.error_ns
    assert before - error <= table["start_ns"][0] <= time.monotonic_ns() + error
    assert error < 1_000_000


def test_no_usable_stamp_is_a_sentence(library: FakeCupti) -> None:
    """A CUPTI that never gives a kernel a time makes the level unavailable."""
    tracer = KernelTracer(library, lambda: None, lambda: library.emit_kernel(start=0, end=0))
    assert "an implausible time" in str(tracer.availability())
    silent = KernelTracer(library, lambda: None, lambda: None)
    assert "no record of it arrived" in str(silent.availability())


def test_clock_is_left_as_cupti_has_it(tracer: KernelTracer, library: FakeCupti) -> None:
    """After stop() CUPTI is on the real-time clock, its default, since other profilers reckon with
    that.
    """
    record(tracer, library.emit_kernel)
    assert abs(library.timestamp() - time.time_ns()) < 10**9


def test_a_series_of_sessions_sets_the_clock_once(library: FakeCupti) -> None:
    """In a block of many sessions CUPTI's clock is set at the first and put back at the end, since
    CUPTI keeps memory at each time; the records are on the monotonic clock all along.
    """
    with kept_clock():
        for _ in range(20):
            tracer = KernelTracer(library, lambda: None, library.emit_kernel)
            before = time.monotonic_ns()
            table = record(tracer, library.emit_kernel)["device_activity"]
            assert before <= table["start_ns"][0] <= time.monotonic_ns()
        assert library.controls.fake_clocks_registered() == 1
    assert library.controls.fake_clocks_registered() == 2
    assert abs(library.timestamp() - time.time_ns()) < 10**9


def test_the_clock_of_another_tool_stays(tracer: KernelTracer, library: FakeCupti) -> None:
    """A tool that gives CUPTI a clock of its own between two sessions disturbs neither: the next
    session is on the monotonic clock, and what the tool sets last is there afterwards.
    """
    theirs = ctypes.CFUNCTYPE(ctypes.c_uint64)(lambda: 42)
    address = ctypes.cast(theirs, ctypes.c_void_p).value
    assert address is not None
    with kept_clock():
        record(tracer, library.emit_kernel)
        library.register_clock(address)
        before = time.monotonic_ns()
        table = record(tracer, library.emit_kernel)["device_activity"]
        assert before <= table["start_ns"][0] <= time.monotonic_ns()
        library.register_clock(address)
    assert library.timestamp() == 42


def test_foreign_buffer_is_ignored(tracer: KernelTracer, library: FakeCupti) -> None:
    """A buffer that another tool lent to CUPTI is neither read nor freed."""
    tracer.start()
    library.controls.fake_return_foreign_buffer()
    library.emit_kernel()
    tracer.stop()
    assert len(tracer.collect()["device_activity"]["start_ns"]) == 1
    assert ActivityBuffers().state().foreign == 1


def _real_libcupti() -> Path | None:
    spec = find_spec("nvidia")
    folders = [Path(folder) for folder in spec.submodule_search_locations or []] if spec else []
    return next((path for folder in folders for path in folder.glob("*/lib/libcupti.so.*")), None)


@pytest.fixture(scope="module")
def real() -> CuptiLibrary:
    """NVIDIA's libcupti; its reading of buffers needs no GPU."""
    path = _real_libcupti()
    if path is None:
        pytest.skip("no libcupti installed")
    return CuptiLibrary(path)


def test_layouts_are_those_of_the_real_library(real: CuptiLibrary) -> None:
    """cupti-python's record sizes are the ones by which NVIDIA's library walks a buffer."""
    assert real.layout_mismatch() is None


def test_real_library_walks_our_buffers(real: CuptiLibrary) -> None:
    """Mixed records in a lent buffer come out of NVIDIA's own walk grouped by kind, unknown kinds
    left out.
    """
    buffers = ActivityBuffers()
    buffers.prepare()
    names = ["RUNTIME", "CONCURRENT_KERNEL", "SYNCHRONIZATION", "MEMSET"] * 5
    records = [np.zeros(1, cupti.layout(name)) for name in names]
    for number, (name, one) in enumerate(zip(names, records, strict=True)):
        one["kind"], one["correlation_id"] = cupti.kind(name), number
    _lend_and_return(buffers, b"".join(one.tobytes() for one in records))
    kept = {
        cupti.kind(name): cupti.layout(name) for name in ("RUNTIME", "CONCURRENT_KERNEL", "MEMSET")
    }
    raw, faults = buffers.decode(real.next_record, kept)
    assert raw[cupti.kind("CONCURRENT_KERNEL")]["correlation_id"].tolist() == [1, 5, 9, 13, 17]
    assert raw[cupti.kind("RUNTIME")]["correlation_id"].tolist() == [0, 4, 8, 12, 16]
    assert faults.unknown_kinds == 5
    assert faults.short_records + faults.no_room + faults.broken_buffers == 0


def test_cut_record_is_not_read(real: CuptiLibrary) -> None:
    """A buffer that ends within a record gives the whole ones only, never bytes behind its end."""
    buffers = ActivityBuffers()
    buffers.prepare()
    one = np.zeros(2, cupti.layout("CONCURRENT_KERNEL"))
    one["kind"] = cupti.kind("CONCURRENT_KERNEL")
    _lend_and_return(buffers, one.tobytes()[:-20])
    raw, _ = buffers.decode(real.next_record, {cupti.kind("CONCURRENT_KERNEL"): one.dtype})
    assert len(raw[cupti.kind("CONCURRENT_KERNEL")]) == 1


def test_damaged_buffer_is_counted(library: FakeCupti) -> None:
    """A buffer whose walk ends before its end is told as a fault, so that what it held is not
    silently missing.
    """
    buffers = ActivityBuffers()
    buffers.prepare()
    one = np.zeros(2, cupti.layout("CONCURRENT_KERNEL"))
    one["kind"] = cupti.kind("CONCURRENT_KERNEL"), 0
    _lend_and_return(buffers, one.tobytes())
    _, faults = buffers.decode(library.next_record, {cupti.kind("CONCURRENT_KERNEL"): one.dtype})
    assert faults.broken_buffers == 1


def _lend_and_return(buffers: ActivityBuffers, content: bytes) -> None:
    request = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 3)(buffers.requested)
    complete = ctypes.CFUNCTYPE(
        None, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t
    )(buffers.completed)
    data, size, most = ctypes.c_void_p(), ctypes.c_size_t(), ctypes.c_size_t()
    request(ctypes.addressof(data), ctypes.addressof(size), ctypes.addressof(most))
    assert data.value is not None
    ctypes.memmove(data, content, len(content))
    complete(None, 0, data, size, len(content))


class _Heap(ctypes.Structure):
    """`struct mallinfo2` of glibc."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


def test_sessions_leave_no_memory_behind(library: FakeCupti) -> None:
    """Hundreds of sessions take no more memory than some: what grows on a GPU is CUPTI's own
    (docs/reliability.md).
    """
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = _Heap

    def in_use_after(sessions: int) -> int:
        for _ in range(sessions):
            tracer = KernelTracer(library, lambda: None, library.emit_kernel)
            record(tracer, library.emit_kernel)
        gc.collect()
        heap = mallinfo2()
        return int(heap.uordblks + heap.hblkhd)

    some = in_use_after(50)
    assert in_use_after(300) - some < 30_000
