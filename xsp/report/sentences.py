"""A summary in sentences: sections in the order of a reader's questions, each of headings of one or
two words with a sentence. Terminal, notebook, page and Markdown show these; none adds a number.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from xsp.summary.bound import BOTH, HOST
from xsp.summary.values import Bound, Cost, Latency, Profiler, Ranking, Summary, Try
from xsp.types import Status
from xsp.words import numbers
from xsp.words.distinct import distinct_names
from xsp.words.labels import shorten

_NAME = 44
"""Characters of a name."""
_CHECK = 90
"""Characters of a call that is printed; longer ones are in the finding."""
_WORTH_SAYING = 0.001
DOUBTFUL = "?"
"""Mark behind a share whose interval is wider than it is."""


class Fact(NamedTuple):
    """A heading of one or two words and a sentence."""

    heading: str
    sentence: str


class Section(NamedTuple):
    """One of the reader's questions and its answers."""

    key: str
    question: str
    facts: list[Fact]


def sections(summary: Summary) -> list[Section]:
    """All questions that the profile answers, in order."""
    found = [
        Section("latency", "How long, and how sure", how_long(summary)),
        Section("bound", "What bounds it", what_bounds(summary)),
        Section("places", "Where the time goes", where(summary)),
        Section("try", "What to try", what_to_try(summary)),
        Section("profiler", "How much of this is the profiler", of_the_profiler(summary)),
        Section("conditions", "What was measured, and on what", conditions(summary)),
    ]
    return [section for section in found if section.facts]


def latency_text(latency: Latency) -> str:
    """`1.234 ms ±0.012`: the latency with half of its interval."""
    decimals = numbers.decimals_for(latency.ms)
    interval = numbers.plus_minus(latency.half_width_ms, decimals)
    return f"{numbers.milliseconds(latency.ms, decimals)} ms" + (f" {interval}" if interval else "")


def how_long(summary: Summary) -> list[Fact]:
    """The latency, and what makes numbers doubtful."""
    latency = summary.latency
    rounds = numbers.quantity(latency.rounds, "round")
    how = "unprofiled" if latency.unprofiled else "as traced"
    told = f"{latency_text(latency)} {how}, call to device finished (95 % interval, {rounds})"
    return [Fact("latency", told), *(Fact("warning", doubt) for doubt in summary.doubts)]


def what_bounds(summary: Summary) -> list[Fact]:
    """Host or GPU, memory or compute, and what one run executes."""
    found = [Fact("bound by", _bound(summary.bound))]
    busy = summary.bound.busy_ms
    if summary.counts.kernels is not None:
        shown = numbers.milliseconds(busy, numbers.decimals_for(summary.latency.ms))
        share = numbers.percent(busy / summary.latency.ms)
        found.append(Fact("GPU busy", f"{shown} ms, {share} of the latency"))
    counts = []
    if summary.counts.kernels is not None:
        kernels = numbers.quantity(summary.counts.kernels, "kernel")
        counts.append(f"{kernels}, copies and sets included")
    if summary.counts.library_calls is not None:
        counts.append(numbers.quantity(summary.counts.library_calls, "library call"))
    return [*found, *([Fact("per run", "; ".join(counts))] if counts else [])]


def _bound(bound: Bound) -> str:
    idle = bound.idle_share
    if bound.busy_ms != bound.busy_ms:
        return "the host: no work on a GPU was traced, and all times are the host's"
    facts = f"the GPU is idle for {numbers.percent(idle)} of the latency{_idle_place(bound)}"
    if bound.who == HOST:
        who = f"the host: {facts}"
    elif bound.who == BOTH:
        who = f"the GPU, and the host with it: {facts}"
    else:
        who = f"the GPU: it is busy for {numbers.percent(1 - idle)} of the latency"
    split = _memory_or_compute(bound)
    return f"{who}. {split}" if split else who


_WHERE = {
    "between": "between kernels",
    "before": "before the first kernel",
    "after": "after the last kernel",
}


def _idle_place(bound: Bound) -> str:
    if not bound.idle_place:
        return ""
    return f", {numbers.percent(bound.idle_place_share)} of that {_WHERE[bound.idle_place]}"


def _memory_or_compute(bound: Bound) -> str:
    """`Of the kernels' time 70% is memory-bound, … (analytic FLOPs)`; empty where no bound is
    known.
    """
    shares = (
        ("memory-bound", bound.memory),
        ("compute-bound", bound.compute),
        ("not known to be either", bound.unknown),
    )
    listed = ", ".join(f"{numbers.percent(share)} is {what}" for what, share in shares if share > 0)
    if not listed:
        return ""
    how = f" (analytic {' and '.join(bound.analytic)})" if bound.analytic else ""
    return f"Of the kernels' time {listed}{how}"


def where(summary: Summary) -> list[Fact]:
    """The costs: of layers and types with their busy and waiting parts, of library functions and
    kernels by the GPU's busy time.
    """
    places = summary.places
    rest = places.in_no_layer
    outside = f"; {numbers.percent(rest)} in no layer" if rest >= _WORTH_SAYING else ""
    beside = (
        "; some run side by side, so that shares add up to more than 100%"
        if places.kernels_overlap
        else ""
    )
    on_gpu = " (GPU busy)" if summary.counts.kernels is not None else ""
    layers, types = map(_with_parts, places.layers.costs), map(_with_parts, places.types.costs)
    found = [
        ("layers", _listed(places.layers, layers, "layer", outside)),
        ("types", _listed(places.types, types, "type")),
        ("library", _listed(places.library, _plain(places.library), "function", on_gpu)),
        ("kernels", _listed(places.kernels, _plain(places.kernels), "name", on_gpu + beside)),
    ]
    return [Fact(heading, sentence) for heading, sentence in found if sentence]


def _listed(ranking: Ranking, costs: Iterator[str], noun: str, after: str = "") -> str:
    """`conv1 3.4%, fc 1.4%, of 143 layers`, and how many have intervals wider than they are."""
    if not ranking.of:
        return ""
    of = numbers.quantity(ranking.of, noun)
    unsure = (
        f"; {ranking.not_known} not ranked, their intervals are wider than they are"
        if ranking.not_known
        else ""
    )
    named = ", ".join(costs)
    return f"{named}, of {of}{after}{unsure}" if named else f"{of}{after}{unsure}"


def _with_parts(cost: Cost) -> str:
    """`layer1.0.conv1 (Conv2d) 2.3% (0.05 ms busy + 0.02 waiting)`; the name of a functional call
    has the type in it.
    """
    kind = f" ({cost.kind})" if cost.kind and "::" not in cost.name else ""
    backward = " (bwd)" if cost.backward else ""
    calls = "" if cost.kind else f" ×{cost.calls}"
    share = numbers.percent(cost.share)
    named = f"{shorten(cost.name, _NAME)}{kind}{backward}{calls} {share}"
    if cost.busy_ms != cost.busy_ms:
        return named
    decimals = numbers.decimals_for(cost.ms)
    busy, waiting = (
        numbers.milliseconds(part, decimals) for part in (cost.busy_ms, cost.waiting_ms)
    )
    return f"{named} ({busy} ms busy + {waiting} waiting)"


def _plain(ranking: Ranking) -> Iterator[str]:
    """`Kernel<…> ×12 3.2%` of each."""
    names = distinct_names([cost.name for cost in ranking.costs], _NAME)
    for cost in ranking.costs:
        yield f"{names[cost.name]} ×{cost.calls} {numbers.percent(cost.share)}"


def what_to_try(summary: Summary) -> list[Fact]:
    """At most five suggestions, the most gain first."""
    found = []
    for place, each in enumerate(summary.tries):
        gain = gain_text(each, summary.latency.ms)
        check = check_text(each, place)
        sentence = f"{gain}: {each.advice}. {each.evidence}. Check: {check}"
        found.append(Fact("try" if place == 0 else "", sentence))
    return found


def gain_text(suggestion: Try, latency_ms: float) -> str:
    """`−0.380 ±0.037 ms`."""
    decimals = numbers.decimals_for(latency_ms)
    gain = numbers.milliseconds(suggestion.gain_ms, decimals)
    return f"−{gain} {numbers.plus_minus(suggestion.half_width_ms, decimals)} ms"


def check_text(suggestion: Try, place: int) -> str:
    """The call that predicts it again, by its place in the findings where it is long."""
    if len(suggestion.check) <= _CHECK:
        return suggestion.check
    return f"prof.what_if(**prof.findings()[{place}].changed)"


def of_the_profiler(summary: Summary) -> list[Fact]:
    """What tracing added, and how well it was taken out again."""
    profiler = summary.profiler
    found = [Fact("tracing", _tracing(profiler))] if profiler.rungs else []
    lost = f" Events lost: {profiler.lost}."
    found.append(Fact("closure", closure_text(profiler) + lost))
    error = profiler.clock_error_ns
    if error > 0:
        within = numbers.nanoseconds(error)
        found.append(Fact("clock", f"device times are on the host's clock to within {within}"))
    return found


def _tracing(profiler: Profiler) -> str:
    steps = ", ".join(
        f"{rung.name} {rung.share:+.1%}" + (" within noise" if rung.within_noise else "")
        for rung in profiler.rungs
    )
    return (
        f"{profiler.total:+.1%} on the model latency when all levels are traced ({steps}); host ms "
        "excludes it"
    )


def closure_text(profiler: Profiler) -> str:
    """How far the corrected timeline is from the truth, or why there is none."""
    closure = profiler.closure
    if closure is None:
        return "Closure error: unknown, fewer than four complete rounds or one rung only."
    used = "" if profiler.corrected else " Corrected times are not used."
    return (
        f"Closure error of the corrected timeline ({closure.rung}): {closure.error:+.1%}, 95 % "
        f"interval {closure.low:+.1%} to {closure.high:+.1%}, on rounds its costs were not fitted "
        f"on.{used}"
    )


def conditions(summary: Summary) -> list[Fact]:
    """The machine and the levels."""
    found = [Fact("on", ", ".join(summary.machine))] if summary.machine else []
    traced = [each.level for each in summary.levels if each.status == Status.TRACED.value]
    found.append(Fact("levels", f"{', '.join(traced)} traced"))
    for each in summary.levels:
        if each.status != Status.TRACED.value:
            why = f": {each.reason}" if each.reason else ""
            found.append(Fact("", f"{each.level} {each.status}{why}"))
    return found


def footnote(summary: Summary) -> str:
    """Where the columns' numbers come from."""
    corrected = summary.profiler.corrected
    host, whole = ("without", "") if corrected else ("with", " of the runs that were traced")
    share = (
        "the GPU's busy time for the node and the idle time that it causes"
        if summary.counts.kernels is not None
        else "the host's time (no kernels traced)"
    )
    return (
        f"Host ms: the host's time {host} the cost of tracing. Device ms: GPU-busy time below the "
        f"node. Share: the node's part of the latency{whole}, {share}. (own time): what a node has "
        "besides the rows below it: Python between layers, waiting. Rows add up to the row above. "
        f"{numbers.UNKNOWN}: not measured. {DOUBTFUL}: the interval is wider than the number."
    )
