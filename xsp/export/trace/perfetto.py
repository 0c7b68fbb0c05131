"""A run as a Perfetto trace: TrackEvent protobuf, opened by ui.perfetto.dev and by trace_processor.

Names, categories, argument names and texts are interned: each is written once. A packet is made
once for each distinct slice (name and arguments); for every repetition only what differs is set
before it is serialised again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import (
    CounterDescriptor,
    InternedData,
    ProcessDescriptor,
    ThreadDescriptor,
    Trace,
    TracePacket,
    TrackDescriptor,
    TrackEvent,
)

from xsp.capture.writing import write_file
from xsp.export.trace.counters import Counter
from xsp.export.trace.slices import API, CATEGORIES, MODULE, NVTX
from xsp.export.trace.tracks import Track
from xsp.export.trace.view import RunView
from xsp.words.distinct import distinct_names

_SEQUENCE = 1
_HOST, _COUNTERS, _FIRST_TRACK = 1, 2, 1024
"""Track uuids: the process, the counters, one group for each GPU, then tracks and counters one by
one.
"""
_FIRST_GPU = 16
_PID = 1
"""Of the only process: captures hold neither its number nor those that the system gave its threads,
which are numbered in order of appearance.
"""

_UNITS = {
    "bytes": CounterDescriptor.UNIT_SIZE_BYTES,
    "MHz": CounterDescriptor.UNIT_UNSPECIFIED,
    "count": CounterDescriptor.UNIT_COUNT,
}
FULL_NAME = "full_name"
"""Annotation of a kernel whose slice has a shorter name."""


def write_perfetto(view: RunView, path: Path) -> Path:
    """Write the trace; `.gz` at the end of the name compresses it, which Perfetto reads too."""
    return write_file(path, b"".join(_packets(_from_zero(view))))


def _from_zero(view: RunView) -> RunView:
    """The same run, later if it has stamps below zero, which the format does not have."""
    first = min(
        [view.slices["start_ns"].min(), *(each.time_ns.min(initial=0) for each in view.counters), 0]
    )
    if first == 0:
        return view
    moved = {name: view.slices[name] - first for name in ("start_ns", "end_ns")}
    counters = [replace(each, time_ns=each.time_ns - first) for each in view.counters]
    return replace(view, slices=view.slices.assign(**moved), counters=counters)


def _packets(view: RunView) -> list[bytes]:
    """Serialised traces of one packet each: joined they are one trace."""
    interned = _Interned()
    begins = _Begins(view, interned)
    slices = _slices(view, begins)
    counters = [
        packet
        for number, counter in enumerate(view.counters, _FIRST_TRACK + len(view.tracks))
        for packet in _counter(counter, number)
    ]
    # Known only now, and needed by a reader before the first event.
    return [_strings(interned), *_descriptions(view), *slices, *counters]


def _strings(interned: _Interned) -> bytes:
    trace, packet = _one_packet()
    packet.sequence_flags = TracePacket.SEQ_INCREMENTAL_STATE_CLEARED
    packet.interned_data.CopyFrom(interned.data)
    return _bytes(trace)


def _descriptions(view: RunView) -> Iterable[bytes]:
    for descriptor in _descriptors(view):
        trace, packet = _one_packet()
        packet.track_descriptor.CopyFrom(descriptor)
        yield trace.SerializeToString()


def _bytes(trace: Trace) -> bytes:
    content: bytes = trace.SerializeToString()
    return content


def _one_packet() -> tuple[Trace, TracePacket]:
    trace = Trace()
    return trace, trace.packet.add(trusted_packet_sequence_id=_SEQUENCE)


class _Interned:
    """Strings and the numbers that stand for them, by field of InternedData."""

    def __init__(self) -> None:
        self.data = InternedData()
        self._numbers: dict[str, dict[str, int]] = {}

    def number(self, field: str, text: str) -> int:
        known = self._numbers.setdefault(field, {})
        if text not in known:
            known[text] = len(known) + 1
            entry = getattr(self.data, field).add(iid=known[text])
            if field == "debug_annotation_string_values":
                entry.str = text.encode()
            else:
                entry.name = text
        return known[text]


class _Begin:
    """The packet of a slice's begin, used again for every slice with this name and these
    arguments.
    """

    def __init__(
        self, interned: _Interned, category: str, name: str, arguments: Mapping[str, Any]
    ) -> None:
        self._trace, self._packet = _one_packet()
        self._packet.sequence_flags = TracePacket.SEQ_NEEDS_INCREMENTAL_STATE
        self._event, self._interned = self._packet.track_event, interned
        self._event.type = TrackEvent.TYPE_SLICE_BEGIN
        self._event.name_iid = interned.number("event_names", name)
        self._event.category_iids.append(interned.number("event_categories", category))
        names = "debug_annotation_names"
        for key, value in arguments.items():
            self._fill(
                self._event.debug_annotations.add(name_iid=interned.number(names, key)), value
            )
        own = {
            MODULE: (),
            NVTX: (),
            API: ("correlation_id",),
            "KERNEL": ("span", "correlation_id"),
        }.get(category, ("span",))
        self._own = {
            key: self._event.debug_annotations.add(
                name_iid=interned.number(names, key), int_value=0
            )
            for key in own
        }

    def packet(
        self, start_ns: int, track: int, leaving: list[int], arriving: list[int], **own: int
    ) -> bytes:
        """Serialised; `own` may have values that this category does not show."""
        self._packet.timestamp, self._event.track_uuid = start_ns, track
        for key, annotation in self._own.items():
            annotation.int_value = own[key]
        self._event.flow_ids[:] = leaving
        self._event.terminating_flow_ids[:] = arriving
        return _bytes(self._trace)

    def _fill(self, annotation: Any, value: Any) -> None:
        if isinstance(value, bool):
            annotation.bool_value = value
        elif isinstance(value, int) and -(1 << 63) <= value < 1 << 63:
            annotation.int_value = value
        elif isinstance(value, float):
            annotation.double_value = value
        elif isinstance(value, Mapping):
            for key, inner in value.items():
                number = self._interned.number("debug_annotation_names", str(key))
                self._fill(annotation.dict_entries.add(name_iid=number), inner)
        elif isinstance(value, list | tuple):
            for inner in value:
                self._fill(annotation.array_values.add(), inner)
        else:
            annotation.string_value_iid = self._interned.number(
                "debug_annotation_string_values", str(value)
            )


def _descriptors(view: RunView) -> Iterable[TrackDescriptor]:
    """Groups, tracks and counters, a parent before its children."""
    yield from _groups(view)
    for number, track in enumerate(view.tracks):
        yield TrackDescriptor(
            uuid=_FIRST_TRACK + number,
            parent_uuid=_parent(view, track),
            name=track.name,
            thread=_thread(view, track),
            sibling_order_rank=number,
        )
    for number, counter in enumerate(view.counters, len(view.tracks)):
        unit = CounterDescriptor(unit=_UNITS[counter.unit])
        if not unit.unit:
            unit.unit_name = counter.unit
        yield TrackDescriptor(
            uuid=_FIRST_TRACK + number, parent_uuid=_COUNTERS, name=counter.name, counter=unit
        )


def _groups(view: RunView) -> Iterable[TrackDescriptor]:
    """The process, a group for each GPU, and the counters."""
    explicit = TrackDescriptor.EXPLICIT
    process = ProcessDescriptor(pid=_PID, process_name=view.title)
    name = f"{view.title}: host"
    yield TrackDescriptor(
        uuid=_HOST, name=name, process=process, child_ordering=explicit, sibling_order_rank=0
    )
    for place in range(len(_contexts(view))):
        yield TrackDescriptor(
            uuid=_FIRST_GPU + place,
            name=f"{view.title}: GPU {place}",
            child_ordering=explicit,
            sibling_order_rank=1 + place,
        )
    yield TrackDescriptor(
        uuid=_COUNTERS,
        name=f"{view.title}: counters",
        child_ordering=explicit,
        sibling_order_rank=_FIRST_TRACK,
    )


def _contexts(view: RunView) -> list[int]:
    """Contexts, which stand for GPUs: captures hold no device numbers."""
    return sorted({track.context for track in view.tracks if track.on_device})


def _parent(view: RunView, track: Track) -> int:
    """The GPU of a stream, the process of a thread, and the thread or stream of what stands
    beside it.
    """
    if not track.is_first:
        for number, other in enumerate(view.tracks):
            same = (other.on_device, other.context, other.number)
            if other.is_first and same == (track.on_device, track.context, track.number):
                return _FIRST_TRACK + number
    if track.on_device:
        return _FIRST_GPU + _contexts(view).index(track.context)
    return _HOST


def _thread(view: RunView, track: Track) -> ThreadDescriptor | None:
    """What tells a reader that the track is a thread; None for all others."""
    if track.on_device or not track.is_first:
        return None
    threads = [each for each in view.tracks if each.is_first and not each.on_device]
    number = _PID + threads.index(track)
    return ThreadDescriptor(pid=_PID, tid=number, thread_name=track.name)


def _short_names(view: RunView) -> dict[str, str]:
    """A short name for each kernel, different ones for different kernels."""
    of_kernels = view.slices["category"] == CATEGORIES.index("KERNEL")
    return distinct_names(view.slices.loc[of_kernels, "name"].unique().tolist())


class _Begins:
    """The begins of a view by category, name and arguments; each made once."""

    def __init__(self, view: RunView, interned: _Interned) -> None:
        self._arguments, self._interned = view.arguments, interned
        self._short = _short_names(view)
        self._made: dict[tuple[int, str, int], _Begin] = {}

    def of(self, category: int, name: str, arguments: int) -> _Begin:
        key = (category, name, arguments)
        if key not in self._made:
            short, known = self._short.get(name, name), self._arguments[arguments]
            if short != name:
                known = {FULL_NAME: name, **known}
            self._made[key] = _Begin(self._interned, CATEGORIES[category], short, known)
        return self._made[key]


def _slices(view: RunView, begins: _Begins) -> list[bytes]:
    columns = (
        "category",
        "name",
        "arguments",
        "start_ns",
        "end_ns",
        "track",
        "row",
        "correlation_id",
    )
    category, name, arguments, start, end, track, row, correlation = (
        view.slices[one].tolist() for one in columns
    )
    leaving, arriving = _flow_ids(view)
    closing, end_packet = _one_packet()
    end_packet.track_event.type = TrackEvent.TYPE_SLICE_END
    none: list[int] = []
    found = []
    for event in view.events.tolist():
        one = event >> 1
        if event & 1:
            end_packet.timestamp = end[one]
            end_packet.track_event.track_uuid = _FIRST_TRACK + track[one]
            found.append(closing.SerializeToString())
        else:
            begin = begins.of(category[one], name[one], arguments[one])
            place, flows = (
                (start[one], _FIRST_TRACK + track[one]),
                (leaving.get(one, none), arriving.get(one, none)),
            )
            found.append(
                begin.packet(*place, *flows, span=row[one], correlation_id=correlation[one])
            )
    return found


def _flow_ids(view: RunView) -> tuple[dict[int, list[int]], dict[int, list[int]]]:
    """Ids of the arrows that leave a slice, and of the one that arrives at it."""
    leaving: dict[int, list[int]] = {}
    arriving: dict[int, list[int]] = {}
    for number, (source, target) in enumerate(
        view.flows[["source", "target"]].to_numpy().tolist(), 1
    ):
        leaving.setdefault(source, []).append(number)
        arriving[target] = [number]
    return leaving, arriving


def _counter(counter: Counter, uuid: int) -> Iterable[bytes]:
    trace, packet = _one_packet()
    packet.track_event.type = TrackEvent.TYPE_COUNTER
    packet.track_event.track_uuid = uuid
    for time, value in zip(counter.time_ns.tolist(), counter.value.tolist(), strict=True):
        packet.timestamp, packet.track_event.counter_value = time, value
        yield trace.SerializeToString()
