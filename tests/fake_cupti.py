"""A fake libcupti and the KERNEL tracer on it; fixtures and helpers."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from compiled_fakes import compiled_cupti

from xsp.levels.kernel import cupti
from xsp.levels.kernel.cupti import CuptiLibrary
from xsp.levels.kernel.tracer import KernelTracer

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
    return compiled_cupti(SOURCE, tmp_path_factory.mktemp("cupti"))


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
