"""Random programs for the simulator, as hypothesis strategies."""

from __future__ import annotations

from hypothesis import strategies as st
from simulator import Call, Join, Launch, Record, Spawn, StreamWait, Synchronize, Work

from xsp.analysis.correction.charges import EventKind
from xsp.types import Level

LAYER_KINDS = (EventKind.LAYER, EventKind.FUNCTIONAL, EventKind.BACKWARD)


def work() -> st.SearchStrategy[Work]:
    return st.integers(1, 60_000).map(Work)


def single(streams: tuple[int, ...]) -> st.SearchStrategy[object]:
    stream = st.sampled_from(streams)
    event = st.sampled_from([10 * streams[0] + i for i in range(2)])
    duration = st.one_of(st.integers(500, 5_000), st.integers(5_000, 200_000))
    launch = st.builds(Launch, stream, duration, st.integers(0, 2))
    return st.one_of(
        work(),
        launch,
        launch,
        launch,
        st.builds(Record, stream, event),
        st.builds(StreamWait, stream, event),
        st.builds(Synchronize, stream),
        st.builds(lambda e: Synchronize(event=e), event),
        st.builds(lambda s, ns: Launch(s, ns, 1, blocking=True), stream, duration),
    )


def block(streams: tuple[int, ...], size: int = 12) -> st.SearchStrategy[tuple[object, ...]]:
    inner = st.lists(single(streams), max_size=4).map(tuple)
    library = inner.map(lambda body: Call(Level.LIBRARY, body))
    # No operation is so short that it is nearly all tracing.
    own = st.integers(300, 60_000).map(Work)
    more = st.lists(st.one_of(single(streams), library), max_size=4)
    layer_body = st.builds(lambda first, rest: (first, *rest), own, more)
    layer = st.builds(
        lambda body, kind: Call(Level.LAYER, body, kind), layer_body, st.sampled_from(LAYER_KINDS)
    )
    return st.lists(st.one_of(single(streams), layer, layer), max_size=size).map(tuple)


@st.composite
def programs(draw: st.DrawFn) -> tuple[object, ...]:
    """Streams 1 and 2 on the main thread, 3 and 4 on a second thread that runs beside it, between
    two syncs or not.
    """
    before, beside, other, after = (draw(block(s)) for s in ((1, 2), (1, 2), (3, 4), (1, 2)))
    if not draw(st.booleans()):
        return (*before, Synchronize(), *after)
    return (*before, Spawn(8, (Work(10), *other)), *beside, Join(8), Work(5), Synchronize(), *after)
