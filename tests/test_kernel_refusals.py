"""What the KERNEL tracer says where CUPTI or the GPU refuses, and what it leaves behind then."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from fake_cupti import LAUNCH_KERNEL, FakeCupti, record
from quick import TESTED

from xsp.errors import LevelError, TracingError
from xsp.levels.kernel import cupti
from xsp.levels.kernel.tracer import KernelTracer

pytest_plugins = ["fake_cupti"]


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
