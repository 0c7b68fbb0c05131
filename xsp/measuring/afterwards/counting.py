"""Hardware counters for a profile: every kernel counted in runs of their own, after the rounds.

Nothing of these runs but the counters is kept: kernels run one at a time in them, so their
durations mean nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from xsp.analysis.spans.rungs import deepest_rung
from xsp.analysis.spans.sequence import kernel_sequence
from xsp.errors import LevelError, TracingError
from xsp.levels._native.signals import held
from xsp.levels.counters.cache_flush import CacheFlush
from xsp.levels.counters.metrics import (
    BLOCKS,
    FLUSHED,
    IN_PLACE,
    INSTRUMENTED,
    Choice,
    choose_metrics,
)
from xsp.levels.counters.range_profiler import (
    Configuration,
    MetricHost,
    chip_name,
    collecting,
    unsupported,
)
from xsp.levels.kernel.cuda_driver import CudaDriver
from xsp.levels.kernel.cupti import CuptiLibrary
from xsp.machine import devices
from xsp.measuring.executor import Executor
from xsp.measuring.progress import bar
from xsp.measuring.switching import tracing
from xsp.types import Tables
from xsp.words.slugs import with_slug

REPEATS = 2
"""Every metric is counted this often; the mean is kept, and how far the counts are apart
is told.
"""

SPARE = 16
"""Room for kernels beyond those that are expected, to tell how many more there are."""

_ALONE = (
    "the caches were flushed before every kernel while counters were collected: DRAM bytes are "
    "those that a kernel "
    "moves by itself, more than it moves in the program"
)

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Gpu:
    """What counts: a chip, and the CUDA context in which the target runs."""

    host: MetricHost
    driver: CudaDriver
    context: int

    @classmethod
    def loaded(cls, context_id: int) -> Gpu:
        """The GPU of the context that records name so, of this thread's and torch's. Raises
        LevelError as `of` does.
        """
        driver = CudaDriver.loaded()
        contexts = [driver.current_context()]
        for device in devices.in_use():
            with devices.on(device):
                contexts.append(driver.current_context())
        return cls.of(CuptiLibrary.loaded(), driver, contexts, context_id)

    @classmethod
    def of(
        cls, library: CuptiLibrary, driver: CudaDriver, contexts: Iterable[int], context_id: int
    ) -> Gpu:
        """The GPU of that one of `contexts` which records name so. Raises LevelError if CUPTI
        cannot count on it, or if it is none of them.
        """
        context = next(
            (one for one in contexts if one and library.context_id(one) == context_id), None
        )
        if context is None:
            raise LevelError(
                "the target's kernels run in a CUDA context that is neither this thread's nor "
                "PyTorch's"
            )
        with driver.current(context):
            device = driver.device()
        if reason := unsupported(library, device):
            raise LevelError(reason)
        return cls(MetricHost(library, chip_name(library, device)), driver, context)


@dataclass(frozen=True)
class Counters:
    """The table `counters`, the facts about it for the manifest, and sentences for the profile's
    warnings.
    """

    table: pd.DataFrame
    facts: dict[str, Any]
    doubts: tuple[str, ...]


def count_kernels(
    executor: Executor,
    tables: Tables,
    requested: Sequence[str],
    caches: str = IN_PLACE,
    progress: bool | None = None,
    gpu: Callable[[int], Gpu] = Gpu.loaded,
) -> Counters:
    """Collect `requested`, names that passed `parse_metrics`, for the kernels of the deepest rung's
    last run.

    `caches` is IN_PLACE or FLUSHED.

    Where counters cannot be had, the table is empty and a sentence says why; what the target raises
    passes through.
    """
    begin = time.perf_counter()
    facts: dict[str, Any] = {
        "metrics": [],
        "cache": caches,
        "passes": 0,
        "runs": 0,
        "measured": 0,
        "shared": 0,
    }
    facts |= {"spread": {}, "seconds": 0.0, "why": None}
    try:
        sequence, context = _sequence(tables)
        counting = gpu(context)
        choice = choose_metrics(requested, counting.host)
        if not choice.configurations:
            raise LevelError("; ".join(choice.missing))
        samples = _collected(
            executor, sequence, _blocks(tables, sequence), counting, choice, caches, progress
        )
    except (LevelError, TracingError, KeyboardInterrupt) as error:
        # Interrupting costs the counters, not the rounds that were measured before them.
        why = f"hardware counters were not collected: {str(error) or 'interrupted'}"
        return Counters(
            _table(sequence=None), facts | {"why": why}, (with_slug("no-counters", why),)
        )
    doubts = [with_slug("unknown-metric", sentence) for sentence in choice.missing]
    doubts += _uninstrumented(samples, choice, sequence)
    doubts += [with_slug("flushed-caches", _ALONE)] if caches == FLUSHED else []
    facts |= {
        "metrics": list(choice.metrics),
        "passes": choice.passes,
        "runs": choice.passes * REPEATS,
        "measured": len(sequence),
        "spread": {metric: _spread(samples[metric]) for metric in choice.metrics},
        "seconds": time.perf_counter() - begin,
    }
    columns = {metric: samples[metric].mean(axis=0) for metric in choice.metrics}
    return Counters(_table(sequence, columns), facts, tuple(doubts))


def _table(
    sequence: pd.DataFrame | None, columns: Mapping[str, Values] | None = None
) -> pd.DataFrame:
    kernels = np.zeros(0, np.int64) if sequence is None else sequence["kernel"].to_numpy()
    position = np.arange(len(kernels))
    return pd.DataFrame(
        {"position": position, "kernel": kernels, "sample": position, **(columns or {})}
    )


def _sequence(tables: Tables) -> tuple[pd.DataFrame, int]:
    """The kernels to count, and the number of their CUDA context. Raises LevelError where CUPTI
    could not tell them apart.
    """
    sequence = kernel_sequence(tables)
    if not len(sequence):
        raise LevelError("the KERNEL level was not traced, or the target ran no kernels")
    runs, calls, spans = tables["runs"], tables["api_calls"], tables["spans"]
    last = runs.loc[runs["rung"] == deepest_rung(tables), "run"].max()
    if calls.loc[calls["run"] == last, "name"].astype(str).str.contains("GraphLaunch").any():
        raise LevelError(
            "the target launches CUDA graphs, whose kernels CUPTI cannot measure one by one: "
            "profile it without them"
        )
    contexts = spans.loc[(spans["run"] == last) & (spans["context"] > 0), "context"].unique()
    if len(contexts) > 1:
        raise LevelError(
            f"the target ran kernels in {len(contexts)} CUDA contexts, and only one can be "
            "measured: use one GPU"
        )
    return sequence, int(contexts.max(initial=0))


def _blocks(tables: Tables, sequence: pd.DataFrame) -> npt.NDArray[np.int64]:
    """Thread blocks of each kernel."""
    grids = tables["kernels"][["grid_x", "grid_y", "grid_z"]].to_numpy(np.int64)[sequence["kernel"]]
    blocks: npt.NDArray[np.int64] = grids.prod(axis=1)
    return blocks


def _collected(
    executor: Executor,
    sequence: pd.DataFrame,
    blocks: npt.NDArray[np.int64],
    gpu: Gpu,
    choice: Choice,
    caches: str,
    progress: bool | None,
) -> dict[str, Values]:
    """By metric, witnesses included, an array of shape (REPEATS, kernels)."""
    samples: dict[str, list[Values]] = {}
    runs = choice.passes * REPEATS
    title = f"xsp {executor.target.name}: counters of {len(sequence)} kernels in {runs} runs"
    with (
        held(),
        tracing([], "while hardware counters were collected"),
        bar(title, runs, progress) as shown,
        _flushing(gpu, caches) as flush,
    ):
        room = (len(sequence) + SPARE) * (1 if flush is None else 2)

        def run(start: Callable[[], None]) -> None:
            executor.run(start)
            if flush is not None:
                flush.require_done()
            shown.update()

        for configuration in choice.configurations:
            with collecting(gpu.host, gpu.context, configuration, room, run) as collect:
                counts = [collect() for _ in range(REPEATS)]
            for every in counts:
                values = every if flush is None else _without_flushes(every, configuration, flush)
                _require_same(sequence, blocks, configuration, values)
                for metric, column in zip(configuration.metrics, values.T, strict=True):
                    samples.setdefault(metric, []).append(column)
    # A witness is in several configurations; of the others there is one sample for each repeat.
    return {metric: np.stack(columns[-REPEATS:]) for metric, columns in samples.items()}


@contextmanager
def _flushing(gpu: Gpu, caches: str) -> Iterator[CacheFlush | None]:
    if caches == IN_PLACE:
        yield None
        return
    flush = CacheFlush(gpu.driver, gpu.context)
    with flush.opened(gpu.host.library):
        yield flush


def _without_flushes(values: Values, configuration: Configuration, flush: CacheFlush) -> Values:
    """The program's kernels of a run in which xsp's own ran before each of them."""
    own = (
        values[0::2, configuration.metrics.index(BLOCKS)]
        if BLOCKS in configuration.metrics
        else flush.blocks
    )
    if len(values) % 2 or np.any(own != flush.blocks):
        raise TracingError(
            "the target launched kernels in a way that CUPTI does not report, so the caches were "
            "not flushed before each: count with caches='in place'"
        )
    return values[1::2]


def _require_same(
    sequence: pd.DataFrame,
    blocks: npt.NDArray[np.int64],
    configuration: Configuration,
    values: Values,
) -> None:
    """Values are matched to kernels by the order of launches, so the kernels must be those of the
    profile.
    """
    if len(values) != len(sequence):
        raise TracingError(
            f"the target ran {len(values)} kernels, but {len(sequence)} in an earlier run: its "
            "work must not change from run to run"
        )
    if np.isnan(values).any():
        unknown = np.array(configuration.metrics)[np.isnan(values).any(axis=0)]
        raise TracingError(f"CUPTI gave no value for {', '.join(unknown)} of some kernels")
    if BLOCKS not in configuration.metrics:
        return
    found = values[:, configuration.metrics.index(BLOCKS)]
    for position in np.flatnonzero(found != blocks)[:1]:
        raise TracingError(
            f"kernel {position} had {found[position]:.0f} thread blocks where "
            f"{sequence['name'][position]} has "
            f"{blocks[position]}: the target's work must not change from run to run"
        )


def _uninstrumented(
    samples: dict[str, Values], choice: Choice, sequence: pd.DataFrame
) -> list[str]:
    """Make instruction counts unknown, in `samples`, where CUPTI did not instrument a kernel and
    counted nothing.
    """
    if INSTRUMENTED not in samples:
        return []
    silent = (samples[INSTRUMENTED] == 0).any(axis=0)
    if not silent.any():
        return []
    counted_by_code = [metric for metric in choice.metrics if "__sass_" in metric]
    for metric in counted_by_code:
        samples[metric] = np.where(silent, np.nan, samples[metric])
    return [
        with_slug(
            "uninstrumented",
            f"CUPTI did not instrument {silent.sum()} kernels, such as "
            f"{sequence['name'][int(silent.argmax())]}: their "
            "instruction counts are unknown",
        )
    ]


def _spread(samples: Values) -> float | None:
    """How far repeated counts of a kernel are apart, relative to their mean; over all kernels
    weighted by the count.

    None where nothing was counted.
    """
    mean = np.nansum(samples.mean(axis=0))
    return float(np.nansum(np.ptp(samples, axis=0)) / mean) if mean > 0 else None
