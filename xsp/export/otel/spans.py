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
from xsp.types import LEVEL_OF_NUMBER, Level


class SpanBuilder:
    """Builds OpenTelemetry spans from the rows that `selection.select_spans` gives."""

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
            yield [self._span(row) for row in part.itertuples(index=False)]

    def _span(self, row: Any) -> ReadableSpan:
        return ReadableSpan(
            name=row.name,
            context=self._context(row.span_id),
            parent=self._context(row.parent_id) if row.parent_id else None,
            resource=self._resource,
            attributes=self._attributes(row),
            links=self._links(row),
            kind=_kind(row.level, row.launch),
            status=self._status,
            start_time=row.start_ns + self._offset_ns,
            end_time=row.end_ns + self._offset_ns,
            instrumentation_scope=self._scopes[row.level],
        )

    def _attributes(self, row: Any) -> Attributes:
        own = launch_attributes(row.name) if row.launch else self._details[row.level][row.detail]
        found: Attributes = {"xsp.level": _LEVELS[row.level], "xsp.run": row.run}
        found |= {"thread.id": row.thread} | own
        if row.level == Level.MODEL:
            # Facts of the whole run are said once: encoding its attributes is most of what sending
            # a span costs.
            found |= {"xsp.rung": row.rung, "xsp.round": row.round}
            found["xsp.corrected"] = self._corrected
        if row.stream >= 0:
            found["xsp.kernel.stream"] = row.stream
        if row.correlation_id:
            found["xsp.correlation_id"] = row.correlation_id
        return found

    def _links(self, row: Any) -> tuple[Link, ...]:
        return (Link(self._context(row.link_id), {"xsp.link": row.link}),) if row.link_id else ()

    def _context(self, span_id: int) -> SpanContext:
        if span_id not in self._contexts:
            self._contexts[span_id] = SpanContext(
                self._trace_id, span_id, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED)
            )
        return self._contexts[span_id]


_LEVELS = [level.name for level in LEVEL_OF_NUMBER]


def epoch_offset_ns(profile: ProfileData) -> int:
    """Unix time minus the monotonic clock of the capture, in ns.

    A capture that did not record it is placed so that its last model call ends now: backends refuse
    spans that are older than what they keep, and a time in the past would have to be invented.
    """
    if profile.epoch_offset_ns is not None:
        return profile.epoch_offset_ns
    return time.time_ns() - int(profile.table("model_calls")["end_ns"].max())


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
