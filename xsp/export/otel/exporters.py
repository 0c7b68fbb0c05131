"""Sending batches through OpenTelemetry's OTLP exporters, and reading what the receiver answers.

The exporters read the `OTEL_EXPORTER_OTLP_*` variables, encode, compress, and repeat an attempt
within their own timeout. They say only whether a batch went through; why it did not, and how many
spans of an accepted batch were thrown away (`partial_success`), is read from the responses here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from opentelemetry import context
from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from xsp.errors import ExportError
from xsp.export.otel.delivery import Answer

PROTOCOLS = ("http/protobuf", "grpc")
DEFAULT_BATCH = 1024
"""Spans of a request: about 1 MB, below the 4 MiB that gRPC receivers accept by default."""

_HTTP_REPEATABLE = (408, 429, 502, 503, 504)
_GRPC_FINAL = (
    "INVALID_ARGUMENT",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "FAILED_PRECONDITION",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAUTHENTICATED",
    "UNKNOWN",
)
"""Codes after which OTLP says that a request must not be repeated."""


class OtlpSender:
    """One attempt per call through an exporter; implements `otel_delivery.Send`."""

    def __init__(self, exporter: SpanExporter, heard: Heard) -> None:
        self._exporter, self._heard = exporter, heard

    def __call__(self, batch: Sequence[ReadableSpan], /) -> Answer:
        """Send the batch and say what became of it."""
        self._heard.forget()
        # The application's own instrumentation of requests or grpc must not trace these requests.
        token = context.attach(context.set_value(_SUPPRESS_INSTRUMENTATION_KEY, True))
        try:
            result = self._exporter.export(batch)
        except Exception as error:
            # A connection that broke is tried again; a span that cannot be encoded would fail
            # again.
            return Answer(
                batch,
                reason=f"{type(error).__name__}: {error}",
                final=not isinstance(error, OSError),
            )
        finally:
            context.detach(token)
        heard = self._heard
        # Some releases of the HTTP exporter take a redirect, which they do not follow, for success.
        if result is SpanExportResult.SUCCESS and not heard.final:
            return Answer(
                rejected=min(heard.rejected, len(batch)),
                reason=heard.reason or "the receiver rejected them",
            )
        reason = heard.reason or "no answer from the receiver"
        return Answer(batch, reason=reason, final=heard.final, wait_s=heard.wait_s)

    def close(self) -> None:
        """Close the connection."""
        self._exporter.shutdown()


class Heard:
    """What the receiver last said."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Before a new attempt."""
        self.rejected, self.reason, self.final = 0, "", False
        self.wait_s: float | None = None

    def http(self, response: Any, *_: Any, **__: Any) -> None:
        """Read a `requests.Response`; called by the session as its hook."""
        if 200 <= response.status_code < 300:
            self._partial_success(response.content)
            return
        where = response.headers.get("Location")
        self.reason = f"HTTP {response.status_code} {response.reason} from {response.url}" + (
            f" to {where}" if where else ""
        )
        self.final = response.status_code not in _HTTP_REPEATABLE
        after = response.headers.get("Retry-After", "")
        self.wait_s = float(after) if after.isdecimal() else None

    def http_error(self, error: OSError) -> None:
        """Read what a request raised: addresses and headers that cannot be are ValueErrors too, and
        files of certificates that are not there plain OSErrors.
        """
        self.reason = f"{type(error).__name__}: {error}"
        self.final = isinstance(error, ValueError) or type(error) is OSError

    def grpc_error(self, error: Any) -> None:
        """Read a `grpc.RpcError`."""
        self.reason = f"gRPC {error.code().name}: {error.details()}"
        self.final = error.code().name in _GRPC_FINAL

    def accepted(self, response: Any) -> None:
        """Read an ExportTraceServiceResponse."""
        partial = response.partial_success
        self.final = False
        self.rejected = max(int(partial.rejected_spans), 0)
        self.reason = f"rejected by the receiver: {partial.error_message or 'no reason given'}"

    def _partial_success(self, body: bytes) -> None:
        from google.protobuf.message import DecodeError
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
            ExportTraceServiceResponse,
        )

        try:
            self.accepted(ExportTraceServiceResponse.FromString(body))
        except DecodeError:
            # Some receivers answer with text or JSON; accepted is accepted.
            self.forget()


def otlp_sender(
    endpoint: str | None, protocol: str | None, headers: Mapping[str, str] | None, timeout_s: float
) -> OtlpSender:
    """A sender for one protocol; what is None is read from `OTEL_*`.

    Raises ExportError for an unknown protocol or where the exporter is not installed.
    """
    name = protocol or _environment("PROTOCOL") or PROTOCOLS[0]
    if name not in PROTOCOLS:
        raise ExportError(f"protocol={name!r} cannot be: xsp speaks {' and '.join(PROTOCOLS)}")
    request_s = min(timeout_s, _request_seconds())
    heard = Heard()
    make: Callable[..., SpanExporter] = _http if name == PROTOCOLS[0] else _grpc
    try:
        return OtlpSender(make(endpoint, headers, request_s, heard), heard)
    except ImportError as error:
        raise ExportError(
            f"sending spans by {name} needs OpenTelemetry's OTLP exporters, which cannot be "
            f"imported ({error}); "
            'install them with `pip install "xsp[otlp]"`'
        ) from error


def batch_size() -> int:
    """Spans of one request: `OTEL_BSP_MAX_EXPORT_BATCH_SIZE`, else DEFAULT_BATCH."""
    return _positive("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", DEFAULT_BATCH)


def _http(
    endpoint: str | None, headers: Mapping[str, str] | None, request_s: float, heard: Heard
) -> SpanExporter:
    import requests
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    class Listening(requests.Session):
        """A session that tells what comes back, and why nothing does."""

        def request(self, *arguments: Any, **options: Any) -> requests.Response:
            # A session's own bundle of certificates yields to REQUESTS_CA_BUNDLE, a request's does
            # not.
            if isinstance(self.verify, str):
                options.setdefault("verify", self.verify)
            try:
                return super().request(*arguments, **options)
            except (
                OSError
            ) as error:  # all of requests' own are, and files of certificates that are not there
                heard.http_error(error)
                raise

    session = Listening()
    session.hooks["response"].append(heard.http)
    return OTLPSpanExporter(
        endpoint=_signal_url(endpoint),
        headers=dict(headers) if headers else None,
        timeout=request_s,
        session=session,
    )


def _signal_url(endpoint: str | None) -> str | None:
    """A base address such as http://host:4318 leads to its path for traces, as in
    OTEL_EXPORTER_OTLP_ENDPOINT.
    """
    if endpoint is None:
        return None
    scheme, separator, rest = endpoint.partition("://")
    bare = separator and "/" not in rest.rstrip("/")
    return f"{scheme}://{rest.rstrip('/')}/v1/traces" if bare else endpoint


def _grpc(
    endpoint: str | None, headers: Mapping[str, str] | None, request_s: float, heard: Heard
) -> SpanExporter:
    import grpc
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

    class Listening:
        """The service's stub, telling what comes back."""

        def __init__(self, stub: Any) -> None:
            self._stub = stub

        def Export(self, request: Any, **options: Any) -> Any:  # noqa: N802 - the service's name for it
            try:
                response = self._stub.Export(request, **options)
            except grpc.RpcError as error:
                heard.grpc_error(error)
                raise
            heard.accepted(response)
            return response

    base: Any = OTLPSpanExporter

    class Exporter(base):  # type: ignore[misc] # the SDK leaves what is overridden here unannotated
        """Makes a new channel now and then, and with it a new stub."""

        def _initialize_channel_and_stub(self) -> None:
            super()._initialize_channel_and_stub()
            self._client: Any = Listening(self._client)

    # gRPC metadata has lower-case keys only.
    lower = {name.lower(): value for name, value in headers.items()} if headers else None
    exporter: Any = Exporter(endpoint=endpoint, headers=lower, timeout=request_s)
    if not isinstance(exporter._client, Listening):
        # Releases that never make a new channel.
        exporter._client = Listening(exporter._client)
    made: SpanExporter = exporter
    return made


def _environment(name: str) -> str | None:
    """`OTEL_EXPORTER_OTLP_TRACES_*`, else `OTEL_EXPORTER_OTLP_*`."""
    return os.environ.get(f"OTEL_EXPORTER_OTLP_TRACES_{name}") or os.environ.get(
        f"OTEL_EXPORTER_OTLP_{name}"
    )


def _request_seconds() -> float:
    text = _environment("TIMEOUT") or "10"
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if seconds <= 0:
        raise ExportError(f"OTEL_EXPORTER_OTLP_TIMEOUT={text!r} cannot be: seconds above 0")
    return seconds


def _positive(variable: str, otherwise: int) -> int:
    text = os.environ.get(variable, "")
    if text and not (text.isdecimal() and int(text) > 0):
        raise ExportError(f"{variable}={text!r} cannot be: a whole number from 1 on")
    return int(text) if text else otherwise
