"""The trace that a profile belongs to: ids shared with OpenTelemetry.

OpenTelemetry is the context, not the recorder: an SDK span costs about 40 us, so spans below MODEL
are built from columns after the runs and only their ids are OpenTelemetry's.
"""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass

from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

# Span ids of a profile are consecutive, from a random base: unique in a trace, small on disk, valid
# W3C ids.
_ID_BITS_FOR_COUNTING = 32


@dataclass(frozen=True)
class TraceContext:
    """Trace id (128 bit), the caller's span id (64 bit, 0 for none), and the first span id of this
    profile.
    """

    trace_id: int
    parent_span_id: int
    first_span_id: int

    @property
    def trace_id_hex(self) -> str:
        """The trace id as W3C trace context writes it, 32 hexadecimal digits."""
        return trace.format_trace_id(self.trace_id)


def current() -> TraceContext:
    """The caller's trace: the open OpenTelemetry span, else `TRACEPARENT` from the environment,
    else a new trace.
    """
    span = trace.get_current_span().get_span_context()
    if not span.is_valid and "TRACEPARENT" in os.environ:
        carrier = {
            "traceparent": os.environ["TRACEPARENT"],
            "tracestate": os.environ.get("TRACESTATE", ""),
        }
        inherited = TraceContextTextMapPropagator().extract(carrier)
        span = trace.get_current_span(inherited).get_span_context()
    first = (secrets.randbits(63 - _ID_BITS_FOR_COUNTING) + 1) << _ID_BITS_FOR_COUNTING
    if span.is_valid:
        return TraceContext(span.trace_id, span.span_id, first)
    return TraceContext(secrets.randbits(128) or 1, 0, first)
