"""Spans belong to the caller's OpenTelemetry trace, with ids that any backend accepts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from quick import QUICK, profiled
from torch import nn

import xsp

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(autouse=True)
def no_inherited_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever started the tests may itself be traced."""
    monkeypatch.delenv("TRACEPARENT", raising=False)
    monkeypatch.delenv("TRACESTATE", raising=False)


def model_parents(prof: xsp.Profile) -> set[int]:
    """Parent ids of the MODEL spans."""
    return {int(one) for one in prof.spans.loc[prof.spans["level"] == "MODEL", "parent_id"]}


def test_model_spans_are_children_of_the_open_span() -> None:
    """Under an open OpenTelemetry span, MODEL spans are its children and share its trace id."""
    tracer = TracerProvider().get_tracer("test")
    with tracer.start_as_current_span("request") as span:
        prof = profiled(nn.Linear(2, 2), torch.randn(1, 2))
        assert trace.get_current_span() is span
    assert model_parents(prof) == {span.get_span_context().span_id}
    assert prof.trace.trace_id == span.get_span_context().trace_id


def test_traceparent_of_the_environment_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process started within a trace continues it."""
    monkeypatch.setenv("TRACEPARENT", TRACEPARENT)
    prof = profiled(nn.Linear(2, 2), torch.randn(1, 2))
    assert prof.trace.trace_id_hex == TRACEPARENT.split("-")[1]
    assert model_parents(prof) == {int(TRACEPARENT.split("-")[2], 16)}


def test_an_open_span_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The nearest context counts: an open span, not the one inherited from the environment."""
    monkeypatch.setenv("TRACEPARENT", TRACEPARENT)
    with TracerProvider().get_tracer("test").start_as_current_span("request") as span:
        prof = profiled(nn.Linear(2, 2), torch.randn(1, 2))
    assert prof.trace.trace_id == span.get_span_context().trace_id


@pytest.mark.parametrize("header", ["", "nonsense", "00-" + "0" * 32 + "-" + "0" * 16 + "-01"])
def test_invalid_traceparent_starts_a_fresh_trace(
    header: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A TRACEPARENT that is not valid is ignored: the profile gets a valid trace of its own."""
    monkeypatch.setenv("TRACEPARENT", header)
    prof = profiled(nn.Linear(2, 2), torch.randn(1, 2))
    assert model_parents(prof) == {0}
    assert prof.trace.trace_id != 0


def test_profiles_outside_a_trace_have_traces_of_their_own() -> None:
    """Without a context every profile is a new trace with 32 hexadecimal digits, and its own span
    ids.
    """
    one, other = (profiled(nn.Linear(2, 2), torch.randn(1, 2)) for _ in range(2))
    assert one.trace.trace_id != other.trace.trace_id
    assert len(one.trace.trace_id_hex) == 32
    assert not set(one.spans["span_id"]) & set(other.spans["span_id"])


def test_span_ids_are_valid_and_parents_exist() -> None:
    """Span ids are unique, not zero and of 64 bits; every other span's parent is a span of the same
    run around it.
    """
    prof = profiled(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), torch.randn(1, 2))
    spans = prof.spans
    assert spans["span_id"].dtype == spans["parent_id"].dtype == np.uint64
    assert spans["span_id"].is_unique
    assert (spans["span_id"] > 0).all()
    children = spans[spans["level"] != "MODEL"]
    joined = children.merge(
        spans, left_on="parent_id", right_on="span_id", suffixes=("", "_parent")
    )
    assert len(joined) == len(children)
    assert (joined["run"] == joined["run_parent"]).all()
    assert (joined["start_ns"] >= joined["start_ns_parent"]).all()
    assert (joined["end_ns"] <= joined["end_ns_parent"]).all()


def test_spans_the_model_opens_stay_in_the_trace() -> None:
    """OpenTelemetry spans that user code opens inside the model belong to the trace that was open
    around it.
    """
    provider = TracerProvider()
    tracer = provider.get_tracer("test")
    seen: set[int] = set()

    def forward(x: torch.Tensor) -> torch.Tensor:
        with tracer.start_as_current_span("inner") as span:
            seen.add(span.get_span_context().trace_id)
            return x + 1

    with tracer.start_as_current_span("request") as request:
        prof = xsp.measure(forward, torch.ones(2), **QUICK)
    assert seen == {request.get_span_context().trace_id} == {prof.trace.trace_id}
