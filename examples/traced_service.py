"""An inference service whose OpenTelemetry trace shows, on demand, where a request's model call
spent its time.

A request with the header `x-xsp-profile: 1` is profiled, and so is a share of all others
(`XSP_SAMPLING_RATE`, 0 by default). The answer is the same; the request's span then contains the
profile, from the model call to the GPU kernels. Profiling repeats the model call for a second or
two (the first time it also loads the profiler, for some seconds), so such a request takes that much
longer, and only one is profiled at a time.

    pip install "xsp[otlp]" fastapi uvicorn
    OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4318 python examples/traced_service.py
    curl -H 'x-xsp-profile: 1' -d '[[0.1, 0.2, 0.3, 0.4]]' -H 'content-type: application/json'
    localhost:8000/predict
"""

from __future__ import annotations

import os
import random
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import torch
from fastapi import FastAPI, Header, HTTPException
from opentelemetry import propagate, trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, StatusCode
from torch import nn

import xsp

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FEATURES, CLASSES = 4, 3
MIN_DURATION_NS = 1_000
"""Shorter spans are left out of the trace: a backend has little use for them."""


class Classifier(nn.Module):
    """Scores of CLASSES classes from rows of FEATURES numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(FEATURES, 256), nn.ReLU(), nn.Linear(256, CLASSES))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, FEATURES) to probabilities (N, CLASSES)."""
        return self.layers(x).softmax(-1)  # type: ignore[no-any-return] # a module's call is untyped


def service(provider: TracerProvider, sampling_rate: float = 0.0) -> FastAPI:
    """The application; its spans, and those of its profiles, go through `provider`."""

    @asynccontextmanager
    async def flushed(_app: FastAPI) -> AsyncIterator[None]:
        # A server that is told to end has no other moment for the spans that still wait to be
        # exported.
        yield
        provider.force_flush()

    app = FastAPI(lifespan=flushed)
    model = Classifier().to(DEVICE).eval()
    tracer = provider.get_tracer("traced_service")
    # A profile measures times: two at once would measure each other.
    one_at_a_time = threading.Lock()

    @app.post("/predict")
    def predict(
        rows: list[list[float]],
        x_xsp_profile: Annotated[str, Header()] = "",
        traceparent: Annotated[str, Header()] = "",
    ) -> list[list[float]]:
        caller = propagate.extract({"traceparent": traceparent})
        with tracer.start_as_current_span("POST /predict", caller, kind=SpanKind.SERVER) as span:
            if not rows or any(len(row) != FEATURES for row in rows):
                span.set_attribute("http.response.status_code", 422)
                raise HTTPException(422, f"a list of rows of {FEATURES} numbers is needed")
            batch = torch.tensor(rows, device=DEVICE)
            wanted = x_xsp_profile == "1" or random.random() < sampling_rate  # noqa: S311 - sampling, not a secret
            if wanted and span.is_recording() and one_at_a_time.acquire(blocking=False):
                try:
                    return profiled(batch, span)
                finally:
                    one_at_a_time.release()
            with torch.inference_mode():
                return model(batch).tolist()  # type: ignore[no-any-return] # a module's call is untyped

    def profiled(batch: torch.Tensor, span: trace.Span) -> list[list[float]]:
        """The same answer; a profile or a trace that failed is told to the span, never to the
        client.
        """
        answer: torch.Tensor | None = None
        try:
            with (
                xsp.profile(model, iterations=4, warmup=2, progress=False) as prof,
                torch.inference_mode(),
            ):
                answer = model(batch)
            prof.emit(provider, min_duration_ns=MIN_DURATION_NS, timeout_s=5)
        except xsp.XspError as error:
            span.add_event("xsp.failed", {"exception.message": str(error)})
        if answer is None:
            span.set_status(StatusCode.ERROR)
            raise HTTPException(500, "the model gave no answer")
        return answer.tolist()

    return app


def main() -> None:
    """Serve on port 8000 and export to the receiver that OTEL_EXPORTER_OTLP_ENDPOINT names."""
    import uvicorn
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    uvicorn.run(service(provider, float(os.environ.get("XSP_SAMPLING_RATE", "0"))), port=8000)


if __name__ == "__main__":
    main()
