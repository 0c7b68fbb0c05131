"""Counters collected from a fake CUPTI that behaves like the real one; fixtures and helpers."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
from compiled_fakes import compiled_cupti

import xsp
from xsp.analysis.spans.sequence import kernel_sequence
from xsp.capture.file import TABLES
from xsp.levels.counters.metrics import IN_PLACE
from xsp.levels.counters.range_profiler import MetricHost
from xsp.levels.kernel.cuda_driver import CudaDriver
from xsp.levels.kernel.cupti import CuptiLibrary
from xsp.measuring.afterwards.counting import Counters, Gpu, count_kernels
from xsp.measuring.executor import Executor
from xsp.measuring.target import target_of

ROOT = Path(__file__).parent.parent
SOURCE = Path(__file__).parent / "native" / "fake_range_profiler.c"
CAPTURES = ROOT / "examples" / "captures"
COLD = 1000
"""By how much more a kernel counts in the fake library that starts with empty caches."""
ALPHA, BETA, GAMMA, SLOW, SASS = (
    f"unit__{name}.sum" for name in ("alpha", "beta", "gamma", "slow", "sass_delta")
)

Kernel = tuple[str, int]
"""Name and thread blocks."""


class FakeCupti(CuptiLibrary):
    """The fake library, a CUDA driver too, with its test-only functions."""

    @property
    def controls(self) -> ctypes.CDLL:
        """Functions named `fake_...`."""
        return self._library

    def launch(self, name: str, blocks: int, *, instrumented: bool = True) -> None:
        """What a program does to run a kernel."""
        self.controls.fake_launch(name.encode(), ctypes.c_uint64(blocks), int(instrumented))


@pytest.fixture(scope="session")
def compiled_profiler(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fake library, compiled once."""
    return compiled_cupti(SOURCE, tmp_path_factory.mktemp("cupti"))


@pytest.fixture
def cupti(compiled_profiler: Path) -> Iterator[FakeCupti]:
    """The fake library in its first state; no profiler or host object may be left by a test."""
    fake = FakeCupti(compiled_profiler)
    fake.controls.fake_reset()
    yield fake
    assert fake.controls.fake_held() == 0


@pytest.fixture
def host(cupti: FakeCupti) -> MetricHost:
    """The fake chip."""
    return MetricHost(cupti, "FAKE100")


@pytest.fixture(scope="module")
def tables() -> dict[str, pd.DataFrame]:
    """Tables of a capture that was recorded on a GPU: a transformer, 138 kernels."""
    prof = xsp.load(CAPTURES / "h100_transformer.xsp")
    return prof.raw_tables(*TABLES)


@pytest.fixture(scope="module")
def kernels(tables: dict[str, pd.DataFrame]) -> list[Kernel]:
    """That capture's kernels in the order of their launches."""
    sequence = kernel_sequence(tables)
    launched = tables["kernels"].loc[sequence["kernel"]]
    return list(
        zip(
            sequence["name"],
            launched["grid_x"] * launched["grid_y"] * launched["grid_z"],
            strict=True,
        )
    )


def collect(
    cupti: FakeCupti,
    tables: dict[str, pd.DataFrame],
    target: Callable[[], object],
    *metrics: str,
    caches: str = IN_PLACE,
) -> Counters:
    """Counters of a target in the fake library."""
    executor, driver = Executor(target_of(target, (), {})), CudaDriver(cupti.controls)
    gpu = partial(Gpu.of, cupti, driver, [0, driver.current_context()])
    return count_kernels(executor, tables, metrics or (ALPHA, BETA), caches, False, gpu)


def launching(
    cupti: FakeCupti, kernels: list[Kernel], uninstrumented: str = ""
) -> Callable[[], None]:
    """A program that runs these kernels."""

    def program() -> None:
        assert cupti.controls.fake_pushed() == 0, (
            "the program's own context is the current one while it runs"
        )
        for name, blocks in kernels:
            cupti.launch(name, blocks, instrumented=name != uninstrumented)

    return program


def refused(found: Counters) -> str:
    """The sentence of counters that could not be collected."""
    assert len(found.table) == 0
    assert found.doubts == (f"{found.facts['why']} [no-counters]",)
    return str(found.facts["why"])
