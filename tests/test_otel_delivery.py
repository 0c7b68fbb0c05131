"""Every span that is sent to an OTLP receiver arrives, or the error says exactly how many
did not.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import certifi
import pandas as pd
import pytest
from otlp_receivers import (
    ACCEPT,
    DIE,
    DROP,
    FORBID,
    LEAD,
    RECEIVERS,
    REFUSE,
    grpc_receiver,
    http_receiver,
)

import xsp
from xsp.capture.file import Capture

CAPTURES = Path(__file__).parent.parent / "examples" / "captures"
MANY = 200_000
both = pytest.mark.parametrize(("protocol", "receiving"), RECEIVERS, ids=["http", "grpc"])


@pytest.fixture(autouse=True)
def no_otel_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever runs the tests may itself be configured for OpenTelemetry."""
    for name in list(os.environ):
        if name.startswith("OTEL_"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def prof() -> xsp.Profile:
    """ResNet-50 on an H100."""
    return xsp.load(CAPTURES / "h100_resnet50.xsp")


@pytest.fixture(scope="module")
def many(prof: xsp.Profile) -> xsp.Profile:
    """200,000 spans."""
    return wide(prof, MANY)


def wide(prof: xsp.Profile, count: int) -> xsp.Profile:
    """A profile of one run with so many spans: a model call and its layers, which have few
    attributes.
    """
    nothing = len(prof.table("layers")) - 1
    spans = pd.DataFrame(
        {
            "run": 0,
            "level": [0] + [1] * (count - 1),
            "detail": [0] + [nothing] * (count - 1),
            "parent": [-1] + [0] * (count - 1),
            "start_ns": range(count),
            "duration_ns": [count] + [1] * (count - 1),
            "thread": 1,
            "stream": -1,
            "context": 0,
            "correlation_id": 0,
        }
    )
    names = (
        "model_calls",
        "api_calls",
        "synchronizations",
        "calls",
        "modules",
        "layers",
        "library_calls",
        "kernels",
    )
    tables = {name: prof.table(name) for name in names} | {
        "spans": spans,
        "runs": prof.runs.iloc[:1].assign(run=0),
    }
    trace = {"trace_id": "2" * 32, "parent_span_id": "0" * 16, "first_span_id": 1 << 40}
    meta = {
        "name": "Net",
        "levels": [],
        "environment": {},
        "warnings": [],
        "trace": trace,
        "epoch_offset_ns": 0,
    }
    return xsp.Profile(Capture(meta, tables))


def expected_ids(prof: xsp.Profile) -> set[int]:
    """Ids of the spans that are exported by default, launches left out."""
    spans = prof.spans
    return set(spans.loc[spans["run"] == spans["run"].max(), "span_id"].tolist())


def test_slow_receiver_gets_all_200000_spans(
    many: xsp.Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A receiver that takes 50 ms for every batch gets each of 200,000 spans once."""
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "4000")
    with http_receiver(delay_s=0.05) as receiver:
        assert many.to_otlp(receiver.endpoint) == MANY
    assert receiver.requests == MANY // 4000
    assert len(receiver.span_ids) == len(set(receiver.span_ids)) == MANY


def test_slow_grpc_receiver_gets_all_spans(prof: xsp.Profile) -> None:
    """The same over gRPC, with 20,000 spans in batches of the usual size."""
    with grpc_receiver(delay_s=0.05) as receiver:
        assert wide(prof, 20_000).to_otlp(receiver.endpoint, "grpc") == 20_000
    assert receiver.requests == 20
    assert len(receiver.span_ids) == len(set(receiver.span_ids)) == 20_000


@both
def test_receiver_that_dies_in_the_middle(protocol: str, receiving: Any, many: xsp.Profile) -> None:
    """When the receiver dies after 20 batches, the error has the exact number of spans that it did
    not take.
    """
    with receiving(behaves=lambda number: ACCEPT if number < 20 else DIE) as receiver:
        with pytest.raises(xsp.ExportError, match=r"of 200000 spans did not arrive") as caught:
            many.to_otlp(receiver.endpoint, protocol, timeout_s=1)
        assert caught.value.delivered == len(receiver.span_ids) == 20 * 1024
        assert caught.value.lost == MANY - 20 * 1024
        assert str(caught.value.lost) in str(caught.value)


@both
def test_refusals_are_waited_out(protocol: str, receiving: Any, prof: xsp.Profile) -> None:
    """A receiver that asks twice to come back later gets every span once."""
    with receiving(behaves=lambda number: REFUSE if number < 2 else ACCEPT) as receiver:
        sent = prof.to_otlp(receiver.endpoint, protocol)
    assert len(receiver.span_ids) == len(set(receiver.span_ids)) == sent
    assert expected_ids(prof) <= set(receiver.span_ids)


@both
def test_refusals_beyond_patience_are_an_error(
    protocol: str, receiving: Any, prof: xsp.Profile
) -> None:
    """A receiver that never accepts is given up after `timeout_s`, and all spans are counted as
    lost.
    """
    with receiving(behaves=lambda _number: REFUSE) as receiver:
        with pytest.raises(xsp.ExportError, match=r"503|UNAVAILABLE") as caught:
            prof.to_otlp(receiver.endpoint, protocol, timeout_s=0.5)
        assert caught.value.delivered == 0
        assert caught.value.lost >= len(expected_ids(prof))


@both
def test_broken_connections_are_opened_again(
    protocol: str, receiving: Any, prof: xsp.Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A receiver that breaks every third connection gets every span."""
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "200")
    with receiving(behaves=lambda number: DROP if number % 3 == 1 else ACCEPT) as receiver:
        sent = prof.to_otlp(receiver.endpoint, protocol)
    assert len(set(receiver.span_ids)) == sent
    assert receiver.requests > len(receiver.accepted)


@both
def test_what_is_refused_for_good_is_not_repeated(
    protocol: str, receiving: Any, prof: xsp.Profile
) -> None:
    """A request without permission is made once; the error says what the receiver answered."""
    with receiving(behaves=lambda _number: FORBID) as receiver:
        with pytest.raises(xsp.ExportError, match=r"401|UNAUTHENTICATED") as caught:
            prof.to_otlp(receiver.endpoint, protocol)
        assert receiver.requests == 1
        assert caught.value.lost >= len(expected_ids(prof))


def test_a_redirect_is_no_delivery(prof: xsp.Profile) -> None:
    """Where a proxy leads requests elsewhere nothing has arrived; the error says where it leads."""
    with http_receiver(behaves=lambda _number: LEAD) as receiver:
        with pytest.raises(
            xsp.ExportError, match=r"301 .* to https://elsewhere\.example"
        ) as caught:
            prof.to_otlp(receiver.endpoint)
        assert receiver.requests == 1
        assert caught.value.delivered == 0


@pytest.mark.parametrize(
    ("endpoint", "headers", "said"),
    [
        ("localhost:4318", {}, "localhost:4318"),
        ("http://127.0.0.1:1", {"x-team": "a\nb"}, "header value"),
    ],
)
def test_requests_that_cannot_be_are_not_repeated(
    endpoint: str, headers: dict[str, str], said: str, prof: xsp.Profile
) -> None:
    """An address without http:// and an impossible header fail with the reason, without waiting for
    `timeout_s`, an hour.
    """
    with pytest.raises(xsp.ExportError, match=said):
        prof.to_otlp(endpoint, headers=headers, timeout_s=3600)


@both
def test_spans_that_a_receiver_rejects_are_counted(
    protocol: str, receiving: Any, prof: xsp.Profile
) -> None:
    """Spans that a receiver takes and throws away (OTLP partial success) are lost: the error says
    how many and why.
    """
    with receiving(rejects=7) as receiver:
        with pytest.raises(xsp.ExportError, match="too old") as caught:
            prof.to_otlp(receiver.endpoint, protocol)
        assert caught.value.lost == 7
        assert caught.value.delivered == len(receiver.span_ids) - 7


def test_no_receiver(prof: xsp.Profile) -> None:
    """Where nobody listens, every span is counted as lost."""
    with http_receiver() as receiver:
        pass
    with pytest.raises(xsp.ExportError, match="ConnectionError") as caught:
        prof.to_otlp(receiver.endpoint, timeout_s=0.3)
    assert caught.value.delivered == 0


@both
def test_environment_is_honoured(
    protocol: str, receiving: Any, prof: xsp.Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Endpoint, protocol, headers, compression, service name and resource come from the standard
    variables.
    """
    with receiving() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-team=models")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "5")
        monkeypatch.setenv("OTEL_SERVICE_NAME", "ranker")
        monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "host.name=node7")
        sent = prof.to_otlp()
    assert len(receiver.span_ids) == sent
    assert receiver.metadata[0]["x-team"] == "models"
    assert receiver.metadata[0].get("content-encoding", "gzip") == "gzip"
    resource, _, _ = next(receiver.spans())
    attributes = {one.key: one.value.string_value for one in resource.attributes}
    assert attributes["service.name"] == "ranker"
    assert attributes["host.name"] == "node7"
    assert attributes["hw.model"] == "NVIDIA H100 80GB HBM3"


def test_the_certificate_of_the_environment_is_the_one_that_counts(
    prof: xsp.Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OTEL_EXPORTER_OTLP_CERTIFICATE goes before the bundle that other programs use; a file that is
    missing is named at once.
    """
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", certifi.where())
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", "/no/such/bundle.pem")
    with pytest.raises(xsp.ExportError, match=r"invalid path: /no/such/bundle\.pem"):
        prof.to_otlp("https://127.0.0.1:1", levels="M")


def test_arguments_go_before_the_environment(
    prof: xsp.Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given endpoint and headers are used, and a base address gets the path of traces."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    with http_receiver() as receiver:
        prof.to_otlp(receiver.endpoint, "http/protobuf", {"Authorization": "Bearer x"})
    assert receiver.metadata[0]["authorization"] == "Bearer x"
    assert receiver.metadata[0]["path"] == "/v1/traces"


def test_missing_exporter_names_the_extra(
    prof: xsp.Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without OpenTelemetry's exporters the error says what to install."""
    monkeypatch.delitem(sys.modules, "xsp.export.otel.otlp_http", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(xsp.ExportError, match=r"xsp\[otlp\]"):
        prof.to_otlp("http://127.0.0.1:1")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"protocol": "http/json"}, "http/json"),
        ({"timeout_s": 0}, "timeout_s"),
        ({"timeout_s": "5"}, "not '5'"),
        ({"run": 10_000}, "run=10000"),
        ({"run": "last"}, "'last'"),
        ({"min_duration_ns": -1}, "min_duration_ns"),
        ({"min_duration_ns": float("inf")}, "min_duration_ns must be .*, not inf"),
        ({"min_duration_ns": "5"}, "min_duration_ns must be .*, not '5'"),
        ({"run": 0, "corrected": True}, "deepest rung"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], said: str, prof: xsp.Profile) -> None:
    """Wrong options are refused by name before anything is sent."""
    with pytest.raises(xsp.ExportError, match=said):
        prof.to_otlp("http://127.0.0.1:1", **options)
