"""OTLP over HTTP: OpenTelemetry's exporter, given a session that hears what the receiver answers.

The exporter reads the `OTEL_EXPORTER_OTLP_*` variables, encodes and compresses. It says only
whether a batch went through; why it did not, and how many spans of an accepted batch were thrown
away, is in the responses, which the session that it is given sees.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import requests
from google.protobuf.message import DecodeError
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter

from xsp.export.otel.delivery import Answer, thrown_away

_REPEATABLE = (408, 429, 502, 503, 504)


class HttpSender:
    """One attempt a call; implements `exporters.Sender`."""

    def __init__(
        self, endpoint: str | None, headers: Mapping[str, str] | None, request_s: float
    ) -> None:
        self._session = _Listening()
        self._exporter: SpanExporter = OTLPSpanExporter(
            endpoint=_signal_url(endpoint),
            headers=dict(headers) if headers else None,
            timeout=request_s,
            session=self._session,
        )

    def __call__(self, batch: Sequence[ReadableSpan], /) -> Answer:
        """Send the batch and say what became of it."""
        self._session.heard = RuntimeError("the exporter sent no request")
        try:
            self._exporter.export(batch)
        except Exception as error:
            return _failed(error)
        heard = self._session.heard
        return _failed(heard) if isinstance(heard, Exception) else _answered(batch, heard)

    def close(self) -> None:
        """Close the connection."""
        self._exporter.shutdown()


class _Listening(requests.Session):
    """A session that keeps the last response, or why there was none."""

    heard: requests.Response | Exception

    def request(self, *arguments: Any, **options: Any) -> requests.Response:
        # A session's own bundle of certificates yields to REQUESTS_CA_BUNDLE, a request's does not.
        if isinstance(self.verify, str):
            options.setdefault("verify", self.verify)
        try:
            self.heard = super().request(*arguments, **options)
        except OSError as error:  # all of requests' own are, and certificates that are not there
            self.heard = error
            raise
        return self.heard


def _answered(batch: Sequence[ReadableSpan], response: requests.Response) -> Answer:
    # A redirect is no error to `requests`, but the exporter does not follow it.
    if response.ok and not response.is_redirect:
        try:
            return thrown_away(batch, ExportTraceServiceResponse.FromString(response.content))
        except DecodeError:
            # Some receivers answer with text or JSON; accepted is accepted.
            return Answer()
    after = response.headers.get("Retry-After", "")
    return Answer(
        accepted=False,
        reason=_status(response),
        final=response.status_code not in _REPEATABLE,
        wait_s=float(after) if after.isdecimal() else None,
    )


def _status(response: requests.Response) -> str:
    where = response.headers.get("Location")
    said = f"HTTP {response.status_code} {response.reason} from {response.url}"
    return f"{said} to {where}" if where else said


def _failed(error: Exception) -> Answer:
    """A connection that broke is tried again; an address, a header or a file of certificates that
    cannot be, and a span that cannot be encoded, would fail again.
    """
    broke = isinstance(error, OSError) and not isinstance(error, ValueError)
    lasting = not broke or type(error) is OSError
    return Answer(accepted=False, reason=f"{type(error).__name__}: {error}", final=lasting)


def _signal_url(endpoint: str | None) -> str | None:
    """A base address such as http://host:4318 leads to its path for traces, as in
    OTEL_EXPORTER_OTLP_ENDPOINT.
    """
    if endpoint is None:
        return None
    scheme, separator, rest = endpoint.partition("://")
    bare = separator and "/" not in rest.rstrip("/")
    return f"{scheme}://{rest.rstrip('/')}/v1/traces" if bare else endpoint
