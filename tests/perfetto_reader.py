"""A reader of Perfetto traces for tests, by the messages of Perfetto's own package."""

from __future__ import annotations

import gzip
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import (
    Trace,
    TracePacket,
    TrackDescriptor,
    TrackEvent,
)


@dataclass
class Slice:
    """A slice as a viewer sees it, nested by the order of begins and ends on its track."""

    name: str
    category: str
    track: int
    start_ns: int
    depth: int
    arguments: dict[str, Any]
    leaving: list[int]
    arriving: list[int]
    end_ns: int = -1


@dataclass
class Read:
    """A trace read back: the slices that were closed, the tracks, and the counters' values by
    track.
    """

    slices: list[Slice] = field(default_factory=list)
    tracks: dict[int, TrackDescriptor] = field(default_factory=dict)
    counters: dict[int, list[tuple[int, int]]] = field(default_factory=dict)

    def spans(self) -> dict[int, Slice]:
        """Slices by their row in `prof.spans`."""
        return {one.arguments["span"]: one for one in self.slices if "span" in one.arguments}


def read(path: Path) -> Read:
    """Parse as Perfetto does: strings from interned data, begins and ends as a stack on
    each track.
    """
    trace, found = Trace(), Read()
    content = path.read_bytes()
    trace.ParseFromString(gzip.decompress(content) if path.suffix == ".gz" else content)
    strings: dict[str, dict[int, str]] = {}
    open_: dict[int, list[Slice]] = {}
    last = 0
    for packet in trace.packet:
        if packet.HasField("interned_data"):
            assert packet.sequence_flags & TracePacket.SEQ_INCREMENTAL_STATE_CLEARED
            data = packet.interned_data
            for name in ("event_names", "event_categories", "debug_annotation_names"):
                strings[name] = {one.iid: one.name for one in getattr(data, name)}
            strings["values"] = {
                one.iid: one.str.decode() for one in data.debug_annotation_string_values
            }
        if packet.HasField("track_descriptor"):
            found.tracks[packet.track_descriptor.uuid] = packet.track_descriptor
        if not packet.HasField("track_event"):
            continue
        event = packet.track_event
        if event.type == TrackEvent.TYPE_COUNTER:
            found.counters.setdefault(event.track_uuid, []).append(
                (packet.timestamp, event.counter_value)
            )
            continue
        assert packet.timestamp >= last
        last = packet.timestamp
        stack = open_.setdefault(event.track_uuid, [])
        if event.type == TrackEvent.TYPE_SLICE_END:
            one = stack.pop()
            one.end_ns = packet.timestamp
            found.slices.append(one)
            continue
        assert packet.sequence_flags & TracePacket.SEQ_NEEDS_INCREMENTAL_STATE
        stack.append(
            Slice(
                strings["event_names"][event.name_iid],
                strings["event_categories"][event.category_iids[0]],
                event.track_uuid,
                packet.timestamp,
                len(stack),
                {
                    strings["debug_annotation_names"][a.name_iid]: value(a, strings)
                    for a in event.debug_annotations
                },
                list(event.flow_ids),
                list(event.terminating_flow_ids),
            )
        )
    assert not any(open_.values()), "a slice was never ended"
    return found


def value(annotation: Any, strings: dict[str, dict[int, str]]) -> Any:
    """What an annotation holds, as Python."""
    if annotation.dict_entries:
        names = strings["debug_annotation_names"]
        return {names[one.name_iid]: value(one, strings) for one in annotation.dict_entries}
    if annotation.array_values:
        return [value(one, strings) for one in annotation.array_values]
    kind = annotation.WhichOneof("value")
    if kind == "string_value_iid":
        return strings["values"][annotation.string_value_iid]
    return getattr(annotation, kind) if kind else []
