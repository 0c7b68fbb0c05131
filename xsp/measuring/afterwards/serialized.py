"""Runs in which the device is synchronised after every layer, so that no two layers overlap on it.

The paper re-runs with CUDA_LAUNCH_BLOCKING=1 for the same purpose (XSP, section III-B). That
variable is read once a process; synchronising where a layer ends does the same at any time.
Latencies of these runs are not used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
import torch
from torch.autograd.graph import Node

from xsp.analysis.spans.assembly import assemble
from xsp.analysis.spans.overlap import layer_busy
from xsp.levels.layer.recorder import PythonRecorder
from xsp.levels.layer.tracer import LayerTracer
from xsp.machine import devices
from xsp.measuring.executor import Executor
from xsp.measuring.ladder import SETTLING_RUNS, Ladder, climb, rungs_for
from xsp.measuring.preparation import Prepared
from xsp.measuring.stopping import after_rounds
from xsp.measuring.target import Target
from xsp.measuring.vocabulary import words_of
from xsp.types import Level

RUNS = 7


class SerializingRecorder(PythonRecorder):
    """Waits for the device outside every layer's stamps: after a call, and before a backward node
    begins.
    """

    def adopt(self, site: Any, output: Any) -> None:
        """See `Recorder`."""
        super().adopt(site, output)
        _wait()

    def watch(self, node: Node, hook: Callable[..., Any]) -> None:
        """See `Recorder`."""
        super().watch(node, lambda _gradients: _wait())
        super().watch(node, hook)


def _wait() -> None:
    used = devices.in_use()
    # A stream that is being captured into a graph cannot be waited for.
    if used and not torch.cuda.is_current_stream_capturing():
        devices.wait_for(used)


def expected_s(latency_ns: float) -> float:
    """Seconds that `serialize_layers` takes for runs of this latency, settling ones included."""
    return RUNS * (1 + SETTLING_RUNS) * latency_ns / 1e9


def serialize_layers(executor: Executor, target: Target, prepared: Prepared) -> pd.DataFrame:
    """GPU-busy time of each layer alone, in `RUNS` runs: run, layer (row of the layers table),
    kernels, busy_ns.
    """
    structure = prepared.structure
    layers = LayerTracer(structure.codes, SerializingRecorder, names=structure.names)
    ladder = Ladder(rungs_for(prepared.traced)[-1:])
    runs, _ = climb(executor, ladder, {**prepared.tracers, Level.LAYER: layers}, after_rounds(RUNS))
    return layer_busy(assemble(runs, words_of(target, prepared)))
