"""The KERNEL level on a real GPU, against torch.profiler as independent witness."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

import xsp
from xsp.levels._native.activity import ActivityBuffers
from xsp.levels.kernel import cupti
from xsp.levels.kernel.cupti_clock import kept_clock
from xsp.levels.kernel.tracer import KernelTracer
from xsp.types import Columns, DeviceKind

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    """A few layers whose kernels are many and small."""
    torch.manual_seed(0)
    layers = [layer for _ in range(20) for layer in (torch.nn.Linear(256, 256), torch.nn.ReLU())]
    return torch.nn.Sequential(*layers).cuda().eval()


@pytest.fixture(scope="module")
def x(model: torch.nn.Module) -> torch.Tensor:
    """An input, after a forward that has chosen algorithms and loaded modules."""
    batch = torch.randn(64, 256, device="cuda")
    _forward(model, batch)
    return batch


@pytest.fixture
def tracer() -> Iterator[KernelTracer]:
    """A tracer that is off again, whatever the test did."""
    kernel_tracer = KernelTracer()
    assert kernel_tracer.availability() is None
    yield kernel_tracer
    kernel_tracer.stop()


def _forward(model: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        y: torch.Tensor = model(x)
    torch.cuda.synchronize()
    return y


def _traced(tracer: KernelTracer, model: torch.nn.Module, x: torch.Tensor) -> dict[str, Columns]:
    tracer.start()
    _forward(model, x)
    tracer.stop()
    return tracer.collect()


def _names(tracer: KernelTracer, device: Columns) -> Counter[str]:
    return Counter(
        tracer.names[index] for index in device["name"][device["kind"] == DeviceKind.KERNEL]
    )


def _torch_profiler_names(model: torch.nn.Module, x: torch.Tensor) -> Counter[str]:
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as session:
        _forward(model, x)
    return Counter(
        event.name for event in session.events() or [] if str(event.device_type).endswith("CUDA")
    )


def test_same_kernels_as_torch_profiler_in_any_order(
    tracer: KernelTracer, model: torch.nn.Module, x: torch.Tensor
) -> None:
    """xsp and torch.profiler see the same kernels, by name and number, also when used in turn in
    one process.
    """
    before = _names(tracer, _traced(tracer, model, x)["device_activity"])
    witness = _torch_profiler_names(model, x)
    after = _names(tracer, _traced(tracer, model, x)["device_activity"])
    assert sum(before.values()) >= 40
    assert before == after
    assert tracer.lost() == 0
    assert sum(before.values()) == sum(
        count for name, count in witness.items() if not name.startswith("Mem")
    )
    assert set(before) <= set(witness)


def test_names_are_demangled(tracer: KernelTracer, model: torch.nn.Module, x: torch.Tensor) -> None:
    """No kernel of PyTorch's own is shown by its mangled name."""
    names = _names(tracer, _traced(tracer, model, x)["device_activity"])
    assert any("at::native" in name for name in names)
    assert not any(name.startswith("_Z") for name in names)


def test_stamps_are_in_order_and_causal(
    tracer: KernelTracer, model: torch.nn.Module, x: torch.Tensor
) -> None:
    """Kernels of one stream start in the order of their launches, none before the call that
    launched it.
    """
    tables = _traced(tracer, model, x)
    device, calls = tables["device_activity"], tables["api_calls"]
    kernels = device["kind"] == DeviceKind.KERNEL
    assert np.all(device["end_ns"] > device["start_ns"])
    for stream in np.unique(device["stream"]):
        ids = device["correlation_id"][kernels & (device["stream"] == stream)]
        assert np.array_equal(ids, np.sort(ids))
    # A runtime call and the driver call inside it can share an id: the first of them is the launch.
    ids, first = np.unique(calls["correlation_id"], return_index=True)
    found = np.searchsorted(ids, device["correlation_id"][kernels])
    assert np.array_equal(ids[found], device["correlation_id"][kernels])
    # Nothing runs before it is launched, but for the error of the clocks.
    early = calls["start_ns"][first[found]] - device["start_ns"][kernels]
    assert early.max() <= tracer.clock.error_ns
    assert tracer.clock.method == "timestamp callback"
    assert tracer.clock.error_ns < 100_000


def test_calls_are_on_the_callers_thread(
    tracer: KernelTracer, model: torch.nn.Module, x: torch.Tensor
) -> None:
    """Launches carry the low half of the thread's identifier, which joins them with the other
    levels.
    """
    import threading

    calls = _traced(tracer, model, x)["api_calls"]
    named = np.array(
        [cupti.api_name(*pair) for pair in zip(calls["domain"], calls["cbid"], strict=True)]
    )
    launches = np.char.startswith(named, "cudaLaunchKernel")
    assert set(calls["thread"][launches].tolist()) == {threading.get_ident() & 0xFFFFFFFF}


def test_nothing_is_recorded_after_stop(
    tracer: KernelTracer, model: torch.nn.Module, x: torch.Tensor
) -> None:
    """After stop() no kind is left on: a forward then leaves no record for the next session to
    find.
    """
    _traced(tracer, model, x)
    _forward(model, x)
    tracer.start()
    tracer.stop()
    tables = tracer.collect()
    assert len(tables["device_activity"]["start_ns"]) == 0
    assert tracer.lost() == 0


def test_every_buffer_comes_back(
    tracer: KernelTracer, model: torch.nn.Module, x: torch.Tensor
) -> None:
    """After stop() CUPTI holds none of our buffers and none waits unread, so nothing can arrive
    late.
    """
    _traced(tracer, model, x)
    state = ActivityBuffers().state()
    assert (state.lent, state.full, state.declined) == (0, 0, 0)


def test_outputs_are_the_same_bits(
    tracer: KernelTracer, model: torch.nn.Module, x: torch.Tensor
) -> None:
    """Tracing does not change what the model computes."""
    plain = _forward(model, x)
    tracer.start()
    traced = _forward(model, x)
    tracer.stop()
    assert torch.equal(plain, traced)


def test_the_clock_of_cupti_is_set_once_for_many_sessions(
    tracer: KernelTracer,
    model: torch.nn.Module,
    x: torch.Tensor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A series of sessions and a profile set CUPTI's clock once each, since CUPTI keeps memory at
    each time. After the series it is CUPTI's own again; after the profile not xsp's: torch's
    profiler, which records memory at its end, leaves its own.
    """
    set_clocks = []
    register = cupti.CuptiLibrary.register_clock

    def counted(library: cupti.CuptiLibrary, clock: int) -> None:
        set_clocks.append(clock)
        register(library, clock)

    monkeypatch.setattr(cupti.CuptiLibrary, "register_clock", counted)
    library = cupti.CuptiLibrary.loaded()
    with kept_clock():
        for _ in range(5):
            assert len(_traced(tracer, model, x)["device_activity"]["start_ns"]) > 0
        assert len(set_clocks) == 1
    assert len(set_clocks) == 2
    assert abs(library.timestamp() - time.time_ns()) < 10**9

    set_clocks.clear()
    prof = xsp.measure(model, x, levels="M/L/K", iterations=4, warmup=1, progress=False)
    assert prof.kernel_count > 0
    assert prof.lost == 0
    assert len(set_clocks) <= 2
    before, stamp = time.monotonic_ns(), library.timestamp()
    assert not before <= stamp <= time.monotonic_ns()
