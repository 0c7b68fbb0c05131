"""Attempts to hand a batch over: to any span exporter, or to an OTLP receiver by HTTP or gRPC."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from xsp.errors import ExportError
from xsp.export.otel.delivery import Answer, Send
from xsp.export.otel.variables import environment, request_seconds

PROTOCOLS = ("http/protobuf", "grpc")


class Sender(Send, Protocol):
    """A connection to a receiver."""

    def close(self) -> None:
        """Close the connection."""


class ExporterSender:
    """One attempt a call through an exporter of the application's; implements `delivery.Send`."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter

    def __call__(self, batch: Sequence[ReadableSpan], /) -> Answer:
        """Export the batch and say what became of it."""
        name = type(self._exporter).__name__
        try:
            result = self._exporter.export(batch)
        except Exception as error:
            return Answer(accepted=False, reason=f"{name} raised {type(error).__name__}: {error}")
        if result is SpanExportResult.SUCCESS:
            return Answer()
        return Answer(accepted=False, reason=f"{name} failed to export them")


def otlp_sender(
    endpoint: str | None, protocol: str | None, headers: Mapping[str, str] | None, timeout_s: float
) -> Sender:
    """A sender for one protocol; what is None is read from `OTEL_*`.

    Raises ExportError for an unknown protocol or where the exporters are not installed.
    """
    name = protocol or environment("PROTOCOL") or PROTOCOLS[0]
    if name not in PROTOCOLS:
        raise ExportError(f"protocol must be {' or '.join(PROTOCOLS)}, not {name!r}")
    request_s = min(timeout_s, request_seconds())
    try:
        if name == PROTOCOLS[0]:
            from xsp.export.otel.otlp_http import HttpSender

            return HttpSender(endpoint, headers, request_s)
        from xsp.export.otel.otlp_grpc import GrpcSender

        return GrpcSender(endpoint, headers, request_s)
    except ImportError as error:
        raise ExportError(
            f"sending spans by {name} needs OpenTelemetry's OTLP exporters, which cannot be "
            f'imported ({error}); install them with `pip install "xsp[otlp]"`'
        ) from error
