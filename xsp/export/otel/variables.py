"""The variables by which OpenTelemetry's exporters are configured."""

from __future__ import annotations

import os

from xsp.errors import ExportError

DEFAULT_BATCH = 1024
"""Spans of a request: about 1 MB, below the 4 MiB that gRPC receivers accept by default."""


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


def request_seconds() -> float:
    """How long one request may take: `OTEL_EXPORTER_OTLP_TIMEOUT`, else 10 s."""
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
