"""Handing spans to the span processors of an application's TracerProvider, at the pace at which
they export.

A BatchSpanProcessor drops spans when its queue is full, and tells nobody when its exporter fails.
So each processor is given no more than its queue holds, flushed, and its exporter's results are
watched while that goes on.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import ProxyTracerProvider

from xsp.errors import ExportError
from xsp.export.otel.delivery import Answer

FLUSH_MS = 30_000
_WATCHED = threading.RLock()
"""Profiles emitted at the same time take turns: who watches an exporter puts back what was there
before.
"""
_QUEUE = 2048
"""OpenTelemetry's default of OTEL_BSP_MAX_QUEUE_SIZE."""


def sdk_provider(tracer_provider: Any) -> Any:
    """The given provider or the global one. Raises ExportError if it is not the SDK's, which alone
    processes spans.
    """
    provider = tracer_provider if tracer_provider is not None else trace.get_tracer_provider()
    if isinstance(provider, ProxyTracerProvider) or not hasattr(provider, "_active_span_processor"):
        raise ExportError(
            f"spans cannot be emitted through {type(provider).__name__}: an "
            "opentelemetry.sdk.trace.TracerProvider is "
            "needed, given to emit() or set with opentelemetry.trace.set_tracer_provider(). "
            "to_otlp() needs none"
        )
    return provider


def processors_of(provider: Any) -> tuple[SpanProcessor, ...]:
    """The provider's span processors, one by one where that is known, so that each goes at its own
    pace.
    """
    active: Any = provider._active_span_processor
    return tuple(getattr(active, "_span_processors", (active,)))


class ProcessorSender:
    """Hands batches to one processor; implements `otel_delivery.Send`.

    Where the processor names its exporter, as the SDK's do, a span counts as accepted when the
    exporter said so. Others are trusted once they were flushed.
    """

    def __init__(self, processor: SpanProcessor) -> None:
        self._processor = processor
        self._exporter: SpanExporter | None = getattr(processor, "span_exporter", None)
        self._results: dict[int, bool] = {}

    @property
    def batch_size(self) -> int:
        """Half the queue: the application puts its own spans into it meanwhile."""
        queue = getattr(getattr(self._processor, "_batch_processor", None), "_max_queue_size", None)
        if queue is None:
            text = os.environ.get("OTEL_BSP_MAX_QUEUE_SIZE", "")
            queue = int(text) if text.isdecimal() and int(text) > 0 else _QUEUE
        return max(1, int(queue) // 2)

    def __call__(self, batch: Sequence[ReadableSpan], /) -> Answer:
        """Hand the batch over, flush, and say what became of it."""
        self._results.clear()
        # Room first: the queue may hold the application's own spans.
        self._processor.force_flush(FLUSH_MS)
        for span in batch:
            self._processor.on_end(span)
        flushed = self._processor.force_flush(FLUSH_MS)
        if self._exporter is None:
            return (
                Answer()
                if flushed
                else Answer(batch, reason="the span processor could not be flushed")
            )
        left = [span for span in batch if not self._results.get(_id(span), False)]
        failed = sum(_id(span) in self._results for span in left)
        name = type(self._exporter).__name__
        if failed:
            return Answer(left, reason=f"{name} failed to export them")
        return Answer(
            left,
            reason=f"they did not reach {name}: dropped from the queue, or left out by the "
            "processor",
        )

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Note the results of the exporter, for the application's spans too, while the
        block runs.
        """
        exporter: Any = self._exporter
        if exporter is None:
            yield
            return
        with _WATCHED:
            yield from self._watch(exporter)

    def _watch(self, exporter: Any) -> Iterator[None]:
        export = exporter.export

        def watched(spans: Sequence[ReadableSpan]) -> Any:
            result: Any = None
            try:
                result = export(spans)
                return result
            finally:
                for span in spans:
                    self._results[_id(span)] = result is SpanExportResult.SUCCESS

        own = "export" in vars(exporter)
        exporter.export = watched
        try:
            yield
        finally:
            if own:
                exporter.export = export
            else:
                del exporter.export


def _id(span: ReadableSpan) -> int:
    context = span.get_span_context()
    return context.span_id if context is not None else 0
