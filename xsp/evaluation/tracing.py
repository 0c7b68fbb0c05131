"""What an evaluation traces, in runs of its own: the stages of the pipeline, and the model at the
levels asked for. No number of an evaluation comes from here.
"""

from __future__ import annotations

import json
import secrets
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from opentelemetry import context, trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from xsp.errors import EvaluationError
from xsp.evaluation.artifacts.store import ArtifactStore
from xsp.evaluation.pipeline.assembling import Assembled
from xsp.evaluation.pipeline.passing import pass_through
from xsp.evaluation.pipeline.stream import StageSpan
from xsp.evaluation.predictors.predictor import Batch
from xsp.evaluation.records.evaluation import Trace
from xsp.measuring.options import Options
from xsp.profiler import measure_with
from xsp.profiles import Profile
from xsp.types import DEFAULT_LEVELS, Level

LEVELS: dict[str, tuple[Level, ...]] = {
    "NONE": (),
    "MODEL": (Level.MODEL,),
    "FRAMEWORK": (Level.MODEL, Level.LAYER),
    "SYSTEM": (Level.MODEL, Level.LAYER, Level.KERNEL),
    "FULL": DEFAULT_LEVELS,
}
"""MLModelScope's levels, and the levels that `xsp.measure` traces for each."""

CAPTURE, STAGES = "capture", "stages"
BUDGET_S = 10.0
_BATCHES = 4
"""Calls of the pipeline whose stages are traced."""


def checked_level(level: str) -> str:
    """Raises EvaluationError for a level that there is not."""
    if level not in LEVELS:
        raise EvaluationError(f"the trace level must be one of {', '.join(LEVELS)}, not {level!r}")
    return level


def traced(
    made: Assembled, level: str, store: ArtifactStore, *, budget_s: float = BUDGET_S
) -> tuple[list[Trace], list[str]]:
    """Trace at a level other than NONE; the files go into the store. Also sentences that belong to
    the traces: levels that could not be traced, and why.

    The stages and the capture have one trace id, and the capture's MODEL spans hang below the span
    of the whole.
    """
    trace_id, root = secrets.randbits(128) or 1, secrets.randbits(62) + 1
    size = made.manifest.metrics.batch
    spans: list[StageSpan] = []
    pass_through(made, size, lambda *_: None, most=_BATCHES * size, record=spans.append)
    count = min(size, len(made.samples)) if made.several else 1
    batch = made.processing.batch([made.samples.row(index) for index in range(count)])
    with _below(trace_id, root):
        profile, notes = _measured(made, batch, level, budget_s)
    stages = json.dumps(_stage_document(spans, trace_id, root)).encode()
    common = {"level": level, "trace_id": trace.format_trace_id(trace_id)}
    found = [
        Trace(
            _kept(lambda path: path.write_bytes(stages), store), STAGES, spans=len(spans), **common
        ),
        Trace(_kept(profile.save, store), CAPTURE, spans=len(profile.spans), **common),
    ]
    return found, notes


def _measured(
    made: Assembled, batch: Batch, level: str, budget_s: float
) -> tuple[Profile, list[str]]:
    target = made.predictor.target(batch)
    levels = LEVELS[level]
    notes = []
    if target is None:
        target = (made.predictor.predict, (batch,))
        if len(levels) > 1:
            notes.append(
                f"only whole calls were traced: layers and kernels of {made.predictor.name} are "
                "not told apart"
            )
            levels = (Level.MODEL,)
    function, arguments = target
    options = Options.of(levels=levels, budget_s=budget_s, progress=False)
    with torch.no_grad():
        profile = measure_with(function, arguments, {}, options)
    missing = profile.levels[profile.levels["status"] == "unavailable"]
    notes += [f"{row.level} was not traced: {row.reason}" for row in missing.itertuples()]
    return profile, notes


@contextmanager
def _below(trace_id: int, span_id: int) -> Iterator[None]:
    """A span of this trace as the current one, which captures join."""
    span = SpanContext(trace_id, span_id, is_remote=False, trace_flags=TraceFlags(1))
    token = context.attach(trace.set_span_in_context(NonRecordingSpan(span)))
    try:
        yield
    finally:
        context.detach(token)


def _stage_document(spans: list[StageSpan], trace_id: int, root: int) -> dict[str, Any]:
    """All ids as W3C trace context writes them; times are ns of the monotonic clock."""
    in_order = sorted(spans, key=lambda span: (span.item, span.start_ns))
    rows = [
        {
            "span_id": trace.format_span_id(root + 1 + place),
            "parent_id": trace.format_span_id(root),
            "name": span.stage,
            "batch": span.item,
            "start_ns": span.start_ns,
            "end_ns": span.end_ns,
            "thread": span.thread,
        }
        for place, span in enumerate(in_order)
    ]
    whole = {"trace_id": trace.format_trace_id(trace_id), "span_id": trace.format_span_id(root)}
    return {**whole, "spans": rows}


def _kept(write: Callable[[Path], Any], store: ArtifactStore) -> str:
    with tempfile.TemporaryDirectory(prefix="xsp-trace-") as folder:
        path = Path(folder) / "trace.xsp"
        write(path)
        with path.open("rb") as file:
            return store.put(file, what="the trace")
