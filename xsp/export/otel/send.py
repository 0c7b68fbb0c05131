"""Profiles as OpenTelemetry traces: into an application's own trace, or straight to an OTLP
receiver.
"""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import TYPE_CHECKING

from xsp.analysis.profile_data import ProfileData
from xsp.errors import ExportError
from xsp.export.otel.delivery import Delivery
from xsp.export.otel.exporters import batch_size, otlp_sender
from xsp.export.otel.processors import ProcessorSender, processors_of, sdk_provider
from xsp.export.otel.schema import resource_of
from xsp.export.otel.selection import Selection, selected
from xsp.export.otel.spans import SpanBuilder

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

PATIENCE_S = 60.0
"""How long a receiver that accepts nothing is waited for, by default."""


def emit(
    profile: ProfileData,
    tracer_provider: TracerProvider | None,
    selection: Selection,
    timeout_s: float = PATIENCE_S,
) -> int:
    """Put the selected spans into the application's trace; see `Profile.emit`."""
    _checked(timeout_s)
    provider = sdk_provider(tracer_provider)
    if getattr(provider, "_disabled", False):
        return 0
    builder = SpanBuilder(
        profile,
        selected(profile, selection),
        resource_of(profile, provider.resource),
        corrected=selection.corrected,
    )
    processors = processors_of(provider)
    if not processors:
        raise ExportError(
            f"{len(builder)} of {len(builder)} spans did not arrive: the TracerProvider has no "
            "span processor to take "
            "them; give it one with add_span_processor()",
            lost=len(builder),
        )
    failures = [
        failure
        for sender in map(ProcessorSender, processors)
        if (failure := _through(sender, builder, timeout_s)) is not None
    ]
    if failures:
        raise max(failures, key=lambda failure: failure.lost)
    return len(builder)


def _through(sender: ProcessorSender, builder: SpanBuilder, timeout_s: float) -> ExportError | None:
    """Hand all spans to one processor. A failure of one must not keep the spans from the others."""
    try:
        with sender.watching():
            Delivery(sender, len(builder), timeout_s).run(builder.batches(sender.batch_size))
    except ExportError as error:
        return error
    return None


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
    rows = selected(profile, selection)
    builder = SpanBuilder(profile, rows, resource_of(profile, None), corrected=selection.corrected)
    sender = otlp_sender(endpoint, protocol, headers, timeout_s)
    try:
        return Delivery(sender, len(builder), timeout_s).run(builder.batches(batch_size()))
    finally:
        sender.close()


def _checked(timeout_s: float) -> None:
    if isinstance(timeout_s, bool) or not (isinstance(timeout_s, Real) and timeout_s > 0):
        raise ExportError(f"timeout_s={timeout_s!r} cannot be: seconds above 0")
