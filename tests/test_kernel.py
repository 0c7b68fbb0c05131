"""The KERNEL level over a CUPTI that behaves like the real one and delivers records made here."""

from __future__ import annotations

import ctypes
import gc
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from quick import TESTED

pytest.importorskip("cupti.cupti", reason="cupti-python describes the records")

from xsp.errors import LevelError, TracingError
from xsp.levels._native.activity import ActivityBuffers
from xsp.levels.kernel import cupti
from xsp.levels.kernel.cupti import CuptiLibrary
from xsp.levels.kernel.tracer import KernelTracer
from xsp.types import API_CALLS, DEVICE_ACTIVITY, SYNCHRONIZATIONS, ApiDomain, DeviceKind, Level

SOURCE = Path(__file__).parent / "native" / "fake_cupti.c"
MANGLED = ctypes.create_string_buffer(b"_ZN2at6native18elementwise_kernelILi128ELi4EEEvi")
PLAIN = ctypes.create_string_buffer(b"ampere_sgemm_128x64_nn")
LAUNCH_KERNEL = 211  # cudaLaunchKernel_v7000


class FakeCupti(CuptiLibrary):
    """The fake library with its test-only functions."""

    @property
    def controls(self) -> ctypes.CDLL:
        """Functions named `fake_...`."""
        return self._library

    def emit(self, kind: str, **fields: Any) -> None:
        """Queue one record with these fields, both times now unless given."""
        record = np.zeros(1, cupti.layout(kind))
        record["kind"] = cupti.kind(kind)
        record["start"] = record["end"] = self.timestamp()
        for name, value in fields.items():
            record[name] = value
        self.controls.fake_emit(record.tobytes(), ctypes.c_size_t(record.nbytes))

    def emit_kernel(self, **fields: Any) -> None:
        """Queue a kernel record, named unless said otherwise."""
        self.emit("CONCURRENT_KERNEL", **({"name": ctypes.addressof(MANGLED)} | fields))


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fake library, compiled once."""
    target = tmp_path_factory.mktemp("cupti") / "libcupti.so.13"
    command = [
        "gcc",
        "-O2",
        "-shared",
        "-fPIC",
        "-std=gnu11",
        "-Wall",
        "-Werror",
        str(SOURCE),
        "-o",
        str(target),
    ]
    subprocess.run([*command, "-lpthread"], check=True)
    return target


@pytest.fixture
def library(compiled: Path) -> Iterator[FakeCupti]:
    """The fake library in its first state; no kind may be left enabled by a test."""
    fake = FakeCupti(compiled)
    fake.controls.fake_reset()
    for name in cupti.LAYOUTS:
        fake.controls.fake_record_bytes(
            cupti.kind(name), ctypes.c_size_t(cupti.layout(name).itemsize)
        )
    yield fake
    assert fake.controls.fake_enabled_count() == 0
    assert fake.controls.fake_silent_count() == 0


@pytest.fixture
def tracer(library: FakeCupti) -> KernelTracer:
    """A tracer on the fake library, whose GPU is always idle."""
    return KernelTracer(library, synchronize=lambda: None, probe=library.emit_kernel)


def record(tracer: KernelTracer, emit: Callable[[], None]) -> dict[str, Any]:
    """The tables of one session."""
    tracer.start()
    emit()
    tracer.stop()
    return tracer.collect()


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


@pytest.mark.parametrize(
    ("result", "remedy"), [(35, "ERR_NVGPUCTRPERM"), (39, "end the other profiler")]
)
def test_refusal_names_call_result_and_way_out(
    library: FakeCupti, result: int, remedy: str
) -> None:
    """When CUPTI refuses a kind, the message says which call, with what result and what helps;
    nothing stays on.
    """
    tracer = KernelTracer(library, lambda: None, library.emit_kernel)
    library.controls.fake_enable_result(cupti.kind("DRIVER"), result)
    sentence = str(tracer.availability())
    assert "cuptiActivityEnable" in sentence
    assert remedy in sentence
    assert library.controls.fake_enabled_count() == 0
    with pytest.raises(TracingError, match="cuptiActivityEnable"):
        tracer.start()


def test_queries_are_not_recorded_while_launches_are(
    tracer: KernelTracer, library: FakeCupti
) -> None:
    """Functions that only ask, such as cudaGetDevice, are switched off while recording, and on
    again afterwards.
    """
    names = {cupti.api_name(domain, cbid): (int(domain), cbid) for domain, cbid in cupti.queries()}
    assert "cudaLaunchKernel" not in names
    tracer.start()
    assert library.controls.fake_is_silent(*names["cudaGetDevice"])
    assert library.controls.fake_is_silent(*names["cuKernelGetName"])
    assert not library.controls.fake_is_silent(0, LAUNCH_KERNEL)
    tracer.stop()
    assert library.controls.fake_silent_count() == 0


def test_nothing_stays_on_when_waiting_fails(tracer: KernelTracer, library: FakeCupti) -> None:
    """A model that leaves the GPU in an error state still finds CUPTI off and the error its own."""
    tracer.availability()
    broken = KernelTracer(library, synchronize=_failing, probe=library.emit_kernel)
    broken.start()
    with pytest.raises(RuntimeError, match="illegal memory access"):
        broken.stop()
    broken.stop()
    assert library.controls.fake_enabled_count() == 0
    assert abs(library.timestamp() - time.time_ns()) < 10**9


def _failing() -> None:
    raise RuntimeError("illegal memory access")


def test_exhausted_gpu_is_a_sentence(library: FakeCupti) -> None:
    """A GPU that cannot run even the trial's kernel makes the level unavailable, with torch's
    reason.
    """
    tracer = KernelTracer(library, lambda: None, probe=_failing)
    assert "illegal memory access" in str(tracer.availability())


def test_failed_flush_is_an_error(tracer: KernelTracer, library: FakeCupti) -> None:
    """A flush that CUPTI refuses is an error, not an empty table, and its records are in no later
    one.
    """
    tracer.start()
    library.emit_kernel(correlation_id=1)
    library.controls.fake_flush_result(999)
    with pytest.raises(TracingError, match="cuptiActivityFlushAll"):
        tracer.stop()
    library.controls.fake_flush_result(0)
    library.flush()
    table = record(tracer, lambda: library.emit_kernel(correlation_id=2))["device_activity"]
    assert table["correlation_id"].tolist() == [2]
    assert tracer.lost() == 1


def test_start_twice_is_an_error(tracer: KernelTracer) -> None:
    """Starting while recording would lose the first session's start, so it is refused."""
    tracer.start()
    with pytest.raises(TracingError, match="call stop"):
        tracer.start()
    tracer.stop()
    tracer.stop()


def test_other_layout_is_refused(tracer: KernelTracer, library: FakeCupti) -> None:
    """A libcupti whose records differ in size from cupti-python's description is named with both
    sizes.
    """
    library.controls.fake_record_bytes(cupti.kind("CONCURRENT_KERNEL"), ctypes.c_size_t(208))
    assert "records of 208 bytes" in str(tracer.availability())
    with pytest.raises(LevelError, match="describes 216"):
        tracer.start()


def test_other_thread_ids_are_refused(tracer: KernelTracer, library: FakeCupti) -> None:
    """Records that tell threads by gettid cannot be joined with other levels."""
    library.controls.fake_thread_id_type(1)
    assert "gettid" in str(tracer.availability())


def test_running_torch_profiler_is_a_sentence(tracer: KernelTracer) -> None:
    """While torch.profiler records, the level is unavailable and starting it is refused."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]):
        assert "torch.profiler" in str(tracer.availability())
        with pytest.raises(TracingError, match="end that session"):
            tracer.start()


@pytest.mark.skipif(torch.version.cuda is not None, reason="this torch was built with CUDA")
def test_torch_without_cuda_is_a_sentence() -> None:
    """Without a CUDA build of torch the default tracer says so."""
    assert "built without CUDA" in str(KernelTracer().availability())


def test_missing_cupti_python_names_the_extra(
    tracer: KernelTracer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without cupti-python the sentence tells what to install."""
    cupti.bindings.cache_clear()
    monkeypatch.setitem(sys.modules, "cupti.cupti", None)
    try:
        assert 'pip install "xsp[cuda1' in str(tracer.availability())
    finally:
        cupti.bindings.cache_clear()


def test_only_the_loaded_library_is_used(compiled: Path, tmp_path: Path) -> None:
    """The libcupti that the process has loaded is found and no other; two copies are refused by
    name.
    """
    copy = tmp_path / "libcupti.so.12"
    shutil.copy(compiled, copy)
    program = """
import ctypes, sys
from xsp.errors import LevelError
from xsp.levels.kernel.cupti import CuptiLibrary

def found():
    CuptiLibrary.loaded.cache_clear()
    try:
        return CuptiLibrary.loaded().path
    except LevelError as error:
        return error

print(found())
for path in sys.argv[1:]:
    ctypes.CDLL(path)
    print(found())
"""
    run = subprocess.run(
        [sys.executable, "-c", program, str(compiled), str(copy)],
        check=True,
        cwd=TESTED,
        capture_output=True,
        text=True,
    )
    none, one, two = run.stdout.splitlines()
    assert "no libcupti" in none
    assert one == str(compiled)
    assert str(compiled) in two
    assert str(copy) in two


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
    """Hundreds of sessions take no more memory than some: what grows on a GPU is CUPTI's own (0.9
    kB a session, docs/reliability.md).
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
