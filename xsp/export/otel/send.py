"""Profiles as OpenTelemetry traces: into an application's own trace, or straight to an OTLP
receiver.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from numbers import Real
from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.sdk.trace import SpanProcessor, Tracer, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter

from xsp.analysis.profile_data import ProfileData
from xsp.errors import ExportError
from xsp.export.otel.delivery import Delivery
from xsp.export.otel.exporters import ExporterSender, otlp_sender
from xsp.export.otel.schema import resource_of
from xsp.export.otel.selection import Selection, select_spans
from xsp.export.otel.spans import SpanBuilder
from xsp.export.otel.variables import batch_size, positive

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource

_QUEUE, _BATCH = 2048, 512
"""OpenTelemetry's defaults of OTEL_BSP_MAX_QUEUE_SIZE and OTEL_BSP_MAX_EXPORT_BATCH_SIZE."""


def emit(
    profile: ProfileData,
    into: trace.TracerProvider | SpanExporter | None,
    selection: Selection,
    timeout_s: float,
) -> int:
    """Put the selected spans into the application's trace; see `Profile.emit`."""
    _checked(timeout_s)
    if isinstance(into, SpanExporter):
        spans = _built(profile, selection, None)
        return Delivery(ExporterSender(into), len(spans), timeout_s).run(
            spans.batches(batch_size())
        )
    provider = into if into is not None else trace.get_tracer_provider()
    tracer = provider.get_tracer("xsp")
    if isinstance(tracer, Tracer):
        spans = _built(profile, selection, tracer.resource)
        return _through(tracer.span_processor, spans, timeout_s)
    if isinstance(provider, TracerProvider):
        return 0  # OTEL_SDK_DISABLED: the SDK gives tracers that record nothing.
    raise ExportError(
        f"spans cannot be emitted through {type(provider).__name__}: an "
        "opentelemetry.sdk.trace.TracerProvider is needed, given to emit() or set with "
        "opentelemetry.trace.set_tracer_provider(), or a SpanExporter. to_otlp() needs none"
    )


def _through(processor: SpanProcessor, spans: SpanBuilder, timeout_s: float) -> int:
    """Hand the spans to the provider's processors, flushing before a queue can be full.

    What the processors' exporters make of them they tell nobody.
    """
    queue = positive("OTEL_BSP_MAX_QUEUE_SIZE", _QUEUE)
    size = max(1, min(positive("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", _BATCH), queue // 2))
    timeout_ms = max(1, round(timeout_s * 1e3))
    flushed, taken = processor.force_flush(timeout_ms), 0
    for batch in spans.batches(size):
        if flushed:
            for span in batch:
                processor.on_end(span)
            flushed = processor.force_flush(timeout_ms)
        taken += len(batch) if flushed else 0
    if flushed:
        return taken
    lost = len(spans) - taken
    raise ExportError(
        f"{lost} of {len(spans)} spans may not have arrived: the application's span processors "
        f"could not be flushed within timeout_s={timeout_s:g}; raise it, or send fewer "
        "with levels= and min_duration_ns=",
        lost=lost,
        delivered=taken,
    )


def to_otlp(
    profile: ProfileData,
    selection: Selection,
    *,
    endpoint: str | None,
    protocol: str | None,
    headers: Mapping[str, str] | None,
    timeout_s: float,
) -> int:
    """Send the selected spans to an OTLP receiver; see `Profile.to_otlp`."""
    _checked(timeout_s)
    spans = _built(profile, selection, None)
    with closing(otlp_sender(endpoint, protocol, headers, timeout_s)) as sender:
        return Delivery(sender, len(spans), timeout_s).run(spans.batches(batch_size()))


def _built(profile: ProfileData, selection: Selection, application: Resource | None) -> SpanBuilder:
    resource = resource_of(profile, application)
    rows = select_spans(profile, selection)
    return SpanBuilder(profile, rows, resource, corrected=selection.corrected)


def _checked(timeout_s: float) -> None:
    if isinstance(timeout_s, bool) or not (isinstance(timeout_s, Real) and timeout_s > 0):
        raise ExportError(f"timeout_s must be a number of seconds > 0, not {timeout_s!r}")
