"""From columns to the SDK's span objects, a batch at a time, because 200,000 of them at once take
200 MB.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pandas as pd
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, TraceFlags

from xsp.analysis.profile_data import ProfileData
from xsp.export.otel.schema import SCOPES, Attributes, detail_attributes, launch_attributes
from xsp.machine.environment import version_of
from xsp.types import Level


class SpanBuilder:
    """Builds OpenTelemetry spans from the rows that `otel_selection.selected` gives."""

    def __init__(
        self, profile: ProfileData, rows: pd.DataFrame, resource: Resource, *, corrected: bool
    ) -> None:
        self._rows = rows
        self._resource = resource
        self._trace_id = profile.trace.trace_id
        self._offset_ns = epoch_offset_ns(profile)
        self._corrected = corrected
        version = version_of("xsp")
        self._scopes = {
            int(level): InstrumentationScope(name, version) for level, name in SCOPES.items()
        }
        self._details = {int(level): _limited(detail_attributes(profile, level)) for level in Level}
        # Equal contexts and links are shared: half the time of building a span would go into them.
        self._contexts: dict[int, SpanContext] = {}
        self._status = Status()

    def __len__(self) -> int:
        return len(self._rows)

    def batches(self, size: int) -> Iterator[list[ReadableSpan]]:
        """All spans in order of their start, `size` at a time."""
        for first in range(0, len(self._rows), size):
            part = self._rows.iloc[first : first + size]
            self._contexts.clear()
            columns = (part[name].tolist() for name in _COLUMNS)
            yield [self._span(*row) for row in zip(*columns, strict=True)]

    def _span(
        self,
        span_id: int,
        parent_id: int,
        level: int,
        launch: bool,
        detail: int,
        name: str,
        run: int,
        rung: str,
        round_: int,
        start_ns: int,
        end_ns: int,
        thread: int,
        stream: int,
        correlation_id: int,
        link_id: int,
        link: str,
    ) -> ReadableSpan:
        attributes: Attributes = {"xsp.level": _LEVELS[level], "xsp.run": run, "thread.id": thread}
        attributes |= launch_attributes(name) if launch else self._details[level][detail]
        if level == Level.MODEL:
            # Facts of the whole run are said once: encoding its attributes is most of what sending
            # a span costs.
            attributes |= {"xsp.rung": rung, "xsp.round": round_, "xsp.corrected": self._corrected}
        if stream >= 0:
            attributes["xsp.kernel.stream"] = stream
        if correlation_id:
            attributes["xsp.correlation_id"] = correlation_id
        return ReadableSpan(
            name=name,
            context=self._context(span_id),
            parent=self._context(parent_id) if parent_id else None,
            resource=self._resource,
            attributes=attributes,
            links=(Link(self._context(link_id), {"xsp.link": link}),) if link_id else (),
            kind=_kind(level, launch),
            status=self._status,
            start_time=start_ns + self._offset_ns,
            end_time=end_ns + self._offset_ns,
            instrumentation_scope=self._scopes[level],
        )

    def _context(self, span_id: int) -> SpanContext:
        if span_id not in self._contexts:
            self._contexts[span_id] = SpanContext(
                self._trace_id, span_id, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED)
            )
        return self._contexts[span_id]


_LEVELS = [level.name for level in Level]
_COLUMNS = (
    "span_id",
    "parent_id",
    "level",
    "launch",
    "detail",
    "name",
    "run",
    "rung",
    "round",
    "start_ns",
    "end_ns",
    "thread",
    "stream",
    "correlation_id",
    "link_id",
    "link",
)


def epoch_offset_ns(profile: ProfileData) -> int:
    """Unix time minus the monotonic clock of the capture, in ns.

    A capture that did not record it is placed so that its last model call ends now: backends refuse
    spans that are older than what they keep, and a time in the past would have to be invented.
    """
    known = profile.epoch_offset_ns
    return (
        known
        if known is not None
        else time.time_ns() - int(profile.table("model_calls")["end_ns"].max())
    )


def _kind(level: int, launch: bool) -> SpanKind:
    """A launch hands work over that is executed later, elsewhere: producer and consumer in
    OpenTelemetry's words.
    """
    if launch:
        return SpanKind.PRODUCER
    return SpanKind.CONSUMER if level == Level.KERNEL else SpanKind.INTERNAL


def _limited(rows: list[Attributes]) -> list[Attributes]:
    """Texts cut to what `OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT` allows; not cut by default."""
    most = SpanLimits().max_span_attribute_length
    if most is None:
        return rows
    return [{name: _cut(value, most) for name, value in attributes.items()} for attributes in rows]


def _cut(value: Any, most: int) -> Any:
    if isinstance(value, tuple):
        return tuple(_cut(each, most) for each in value)
    return value[:most] if isinstance(value, str) else value
