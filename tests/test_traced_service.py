"""The traced service: a request's span contains the profile of that request's model call, when that
is asked for.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from fastapi.testclient import TestClient
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

ROWS = [[0.1, 0.2, 0.3, 0.4], [1.0, 0.0, 0.0, 0.0]]
PROFILE = {"x-xsp-profile": "1"}


@pytest.fixture(scope="module")
def example() -> Iterator[ModuleType]:
    """The example, imported as Python imports a script's neighbours."""
    path = sys.path.copy()
    sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
    yield importlib.import_module("traced_service")
    sys.path[:] = path


class Service:
    """A running service, and the spans that it exported."""

    def __init__(
        self, example: ModuleType, exporter: InMemorySpanExporter, rate: float = 0.0, **options: Any
    ) -> None:
        self.exporter = exporter
        self.provider = TracerProvider(**options)
        self.provider.add_span_processor(BatchSpanProcessor(exporter))
        self.client = TestClient(example.service(self.provider, rate))

    def predict(self, headers: dict[str, str] | None = None, rows: Any = ROWS) -> Any:
        """One request's response."""
        return self.client.post("/predict", json=rows, headers=headers)

    def spans(self) -> tuple[ReadableSpan, ...]:
        """Everything exported so far."""
        self.provider.force_flush()
        return self.exporter.get_finished_spans()


def test_header_puts_the_profile_into_the_requests_span(example: ModuleType) -> None:
    """With the header the request's trace has the model call and its layers below it; the answer is
    the same.
    """
    service = Service(example, InMemorySpanExporter())
    plain, profiled = service.predict(), service.predict(PROFILE)
    assert profiled.json() == plain.json()
    first, *inner, request = service.spans()
    assert (first.name, request.name) == ("POST /predict", "POST /predict")
    assert first.context.trace_id != request.context.trace_id
    assert {span.context.trace_id for span in inner} == {request.context.trace_id}
    (model,) = (span for span in inner if span.name == "Classifier")
    assert model.parent is not None
    assert model.parent.span_id == request.context.span_id
    assert {"layers.0", "layers.2"} <= {span.name for span in inner}
    assert all(
        span.resource.attributes["service.name"] == request.resource.attributes["service.name"]
        for span in inner
    )


def test_callers_trace_is_continued(example: ModuleType) -> None:
    """A request that comes with a traceparent stays in that trace, its profile too."""
    service = Service(example, InMemorySpanExporter())
    service.predict(
        PROFILE | {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    )
    assert {span.context.trace_id for span in service.spans()} == {
        0x0AF7651916CD43DD8448EB211C80319C
    }
    assert len(service.spans()) > 2


@pytest.mark.parametrize(("rate", "spans"), [(0.0, 3), (1.0, None)])
def test_sampling_rate(rate: float, spans: int | None, example: ModuleType) -> None:
    """A sampling rate of 0 profiles no request, a rate of 1 each one."""
    service = Service(example, InMemorySpanExporter(), rate)
    for _ in range(3):
        service.predict()
    models = [span for span in service.spans() if span.name == "Classifier"]
    assert len(models) == (0 if spans else 3)
    assert spans is None or len(service.spans()) == spans


def test_unsampled_requests_are_not_profiled(example: ModuleType) -> None:
    """Where the application does not record a request, nothing is profiled and nothing exported."""
    service = Service(example, InMemorySpanExporter(), sampler=ALWAYS_OFF)
    assert service.predict(PROFILE).status_code == 200
    assert service.spans() == ()


class Broken(InMemorySpanExporter):
    """Loses the profile's spans."""

    def export(self, spans: Any) -> SpanExportResult:
        kept = [span for span in spans if span.name == "POST /predict"]
        super().export(kept)
        return SpanExportResult.SUCCESS if len(kept) == len(spans) else SpanExportResult.FAILURE


def test_client_never_suffers_from_a_broken_backend(
    example: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When spans cannot be exported the client gets its answer all the same; where their processor
    cannot be flushed, the request's span has the error.
    """
    service = Service(example, Broken())
    assert service.predict(PROFILE).status_code == 200
    assert [span.name for span in service.spans()] == ["POST /predict"]
    monkeypatch.setattr(BatchSpanProcessor, "force_flush", lambda *_: False)
    assert service.predict(PROFILE).status_code == 200
    monkeypatch.undo()
    *_, request = service.spans()
    (event,) = request.events
    assert event.name == "xsp.failed"
    assert "spans may not have arrived" in str((event.attributes or {})["exception.message"])


def test_bad_input_is_refused(example: ModuleType) -> None:
    """Rows of another length are the client's error."""
    assert Service(example, InMemorySpanExporter()).predict(rows=[[1.0]]).status_code == 422


def test_spans_that_wait_are_exported_when_the_server_ends(example: ModuleType) -> None:
    """Stopping the server exports what its last requests left in the queue."""
    exporter = InMemorySpanExporter()
    service = Service(example, exporter)
    with service.client:
        service.predict()
    assert [span.name for span in exporter.get_finished_spans()] == ["POST /predict"]
