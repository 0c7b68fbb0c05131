"""Attempts to hand a batch over: to any span exporter, or to an OTLP receiver by HTTP or gRPC."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Protocol

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from xsp.errors import ExportError
from xsp.export.otel.delivery import Answer, Send

PROTOCOLS = ("http/protobuf", "grpc")
DEFAULT_BATCH = 1024
"""Spans of a request: about 1 MB, below the 4 MiB that gRPC receivers accept by default."""


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
    request_s = min(timeout_s, _request_seconds())
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


def batch_size() -> int:
    """Spans of one request: `OTEL_BSP_MAX_EXPORT_BATCH_SIZE`, else DEFAULT_BATCH."""
    return positive("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", DEFAULT_BATCH)


def environment(name: str) -> str | None:
    """`OTEL_EXPORTER_OTLP_TRACES_*`, else `OTEL_EXPORTER_OTLP_*`."""
    return os.environ.get(f"OTEL_EXPORTER_OTLP_TRACES_{name}") or os.environ.get(
        f"OTEL_EXPORTER_OTLP_{name}"
    )


def positive(variable: str, otherwise: int) -> int:
    """A whole number from the environment. Raises ExportError unless it is > 0."""
    text = os.environ.get(variable, "")
    if text and not (text.isdecimal() and int(text) > 0):
        raise ExportError(f"{variable} must be a whole number > 0, not {text!r}")
    return int(text) if text else otherwise


def _request_seconds() -> float:
    text = environment("TIMEOUT") or "10"
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if seconds <= 0:
        raise ExportError(
            f"OTEL_EXPORTER_OTLP_TIMEOUT must be a number of seconds > 0, not {text!r}"
        )
    return seconds
