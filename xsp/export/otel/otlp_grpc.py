"""OTLP over gRPC: OpenTelemetry's encoding and its service, on a channel of our own.

The exporter for gRPC keeps its answers to itself: neither the status nor how many spans a receiver
threw away can be had from it, and a count of what arrived needs both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.util.re import parse_env_headers

from xsp.errors import ExportError
from xsp.export.otel.delivery import Answer, thrown_away
from xsp.export.otel.variables import environment

_REPEATABLE = (
    "CANCELLED",
    "DEADLINE_EXCEEDED",
    "RESOURCE_EXHAUSTED",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNAVAILABLE",
    "DATA_LOSS",
)
"""Codes after which OTLP says that a request may be repeated."""


class GrpcSender:
    """One attempt a call; implements `exporters.Sender`."""

    def __init__(
        self, endpoint: str | None, headers: Mapping[str, str] | None, request_s: float
    ) -> None:
        self._channel = _channel(endpoint or environment("ENDPOINT") or "http://localhost:4317")
        stub: Any = TraceServiceStub
        self._service = stub(self._channel)
        told = headers or parse_env_headers(environment("HEADERS") or "", liberal=True)
        # gRPC metadata has lower-case keys only.
        self._metadata = tuple((name.lower(), value) for name, value in told.items())
        self._request_s = request_s

    def __call__(self, batch: Sequence[ReadableSpan], /) -> Answer:
        """Send the batch and say what became of it."""
        try:
            response = self._service.Export(
                encode_spans(batch), metadata=self._metadata, timeout=self._request_s
            )
        except grpc.RpcError as error:
            code = error.code().name
            reason = f"gRPC {code}: {error.details()}"
            return Answer(accepted=False, reason=reason, final=code not in _REPEATABLE)
        except Exception as error:
            # A span that cannot be encoded, or a header that cannot be sent, would fail again.
            return Answer(accepted=False, reason=f"{type(error).__name__}: {error}", final=True)
        return thrown_away(batch, response)

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()


def _channel(endpoint: str) -> grpc.Channel:
    url = urlsplit(endpoint)
    target = url.netloc or endpoint
    gzip = environment("COMPRESSION") == "gzip"
    compression = grpc.Compression.Gzip if gzip else grpc.Compression.NoCompression
    insecure = (environment("INSECURE") or "").lower() == "true"
    if url.scheme == "http" or (insecure and url.scheme != "https"):
        return grpc.insecure_channel(target, compression=compression)
    return grpc.secure_channel(target, _credentials(), compression=compression)


def _credentials() -> grpc.ChannelCredentials:
    names = ("CERTIFICATE", "CLIENT_KEY", "CLIENT_CERTIFICATE")
    paths = [environment(name) for name in names]
    try:
        return grpc.ssl_channel_credentials(
            *(Path(path).read_bytes() if path else None for path in paths)
        )
    except OSError as error:
        raise ExportError(
            f"a certificate file named by OTEL_EXPORTER_OTLP_* cannot be read: {error}"
        ) from error
