"""The sentences of doubts and of the end of the rounds, one function for each slug. Each sentence
ends with its slug, the name of its paragraph in docs/warnings.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from xsp.doubts import Doubt, Slug, Stopped, StopReason
from xsp.words.slugs import with_slug


def sentence_of(doubt: Doubt) -> str:
    """The sentence of a doubt, with its slug."""
    return with_slug(doubt.slug.value, _SENTENCES[doubt.slug](**doubt.facts))


def end_of_rounds(stopped: Stopped) -> str:
    """Why no more rounds were run."""
    rounds = stopped.rounds
    if stopped.reason is StopReason.OWN_RULE:
        return stopped.said
    if stopped.reason is StopReason.ASKED:
        return f"{rounds} rounds as asked for"
    if stopped.reason is StopReason.INTERRUPTED:
        return f"interrupted after round {rounds}; the {rounds} finished rounds are kept"
    known = f"model latency known to ±{stopped.half_width:.1%}"
    layers = f"the longest layers to ±{stopped.of_layers:.1%} of it"
    if stopped.reason is StopReason.PRECISE:
        return f"{known}, {layers}, after {rounds} rounds"
    why = {
        StopReason.BUDGET: "time budget spent",
        StopReason.MOST_ROUNDS: "greatest number of rounds reached",
    }[stopped.reason]
    wide = (stopped.half_width or 0.0) > (stopped.target or 0.0)
    which = "" if wide else f"; {layers}"
    return f"{why} after {rounds} rounds; {known} only{which}, not ±{stopped.target:.1%}"


def _imprecise(half_width: float | None = None, stopped: str = "") -> str:
    if stopped:
        return stopped
    known = (
        "from too few rounds for an interval"
        if half_width is None
        else f"to ±{half_width:.1%} only"
    )
    return f"the model latency is known {known}; more iterations narrow it"


def _cut_short(missing: str) -> str:
    return f"interrupted after the rounds: {missing} are missing"


def _out_of_time(missing: str) -> str:
    return f"the time budget left none for {missing}: a larger budget_s, or iterations, has them"


def _not_serialized(missing: Sequence[str]) -> str:
    return (
        "no layer was measured alone: serialize=True needs LAYER and KERNEL, without "
        f"{' and '.join(missing)} there is nothing to measure"
    )


def _unsettled(runs: int) -> str:
    return f"the latency had not settled after {runs} warm-up runs"


def _lost_records(lost: int) -> str:
    return f"{lost} records were lost; counts and device times are too low by what they held"


def _no_launch(activities: int) -> str:
    return f"{activities} device activities had no launch record and are in no table"


def _unknown_events(events: int) -> str:
    return (
        f"{events} layer or library events did not occur in the structure run: the control flow "
        "depends on data, and their names and shapes are unknown"
    )


def _times(named: Mapping[str, int], of: int) -> str:
    """`add 3 times, relu 2 times and 4 more`: those that are named, of how many."""
    listed = ", ".join(f"{name} {number} times" for name, number in named.items())
    return f"{listed} and {of - len(named)} more" if of > len(named) else listed


def _missing_layers(layers: int, named: Mapping[str, int], runs: int) -> str:
    return (
        f"layers of the structure run did not occur in the {runs} runs that traced layers "
        f"({_times(named, layers)}): the program's work varies from run to run, and their times "
        "are means over runs with and without them"
    )


def _missing_calls(functions: int, named: Mapping[str, int], runs: int) -> str:
    return (
        f"library calls of the structure run did not occur in the {runs} runs that traced them "
        f"({_times(named, functions)}): the libraries chose other functions, or the work varies "
        "from run to run"
    )


def _changed_work(untraced: int, traced: Sequence[int]) -> str:
    return (
        f"without layer and library tracing the program ran {untraced} kernels, copies and sets, "
        f"with it {' to '.join(map(str, traced))}: it does other work when traced, or from run to "
        "run"
    )


def _other_modules(modules: int, name: str, untraced: int, traced: int) -> str:
    return (
        f"{modules} modules were called a different number of times with layer tracing than "
        "without "
        f"({name!r}: {traced} instead of {untraced}): the program does other work when traced, or "
        "from run to run"
    )


def _not_joined(
    level: str = "",
    runs: int = 0,
    of: int = 0,
    place: int = 0,
    expected: str | None = None,
    found: str | None = None,
    alike: bool = False,
) -> str:
    if not level:
        return (
            "another rank's runs of one level did other work than its annotated runs: no level is "
            "timed alone"
        )
    what = "library calls" if level == "LIBRARY" else "kernels, copies and sets"
    if alike:
        why = f"two threads made the same {what} in the same order, so order tells nothing"
    else:
        why = (
            f"event {place + 1} of a thread was {found or 'missing'}, where they have "
            f"{expected or 'none'}"
        )
    return (
        f"{runs} of {of} runs that traced {level} alone did other work than the annotated runs "
        f"({why}): {level} is not timed alone"
    )


def _modified_in_place(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return (
        "the model writes to its inputs, parameters or globals in place "
        f"({', '.join(names[:3])}{more}): this is not put back, so each run starts from "
        "what the one before it left"
    )


def _shared_generators(generators: Sequence[str]) -> str:
    return (
        f"{' and '.join(generators)} random generator was used by more than the target: it is put "
        "back before each run, so another thread drew the same numbers again and again"
    )


def _hidden_generator(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return (
        f"dropout between the layers of {', '.join(names[:3])}{more} draws from a state that cuDNN "
        "keeps to itself: re-runs draw other numbers, and so does the program afterwards"
    )


def _several_threads(threads: int) -> str:
    return (
        f"the block called the model from {threads} threads; the calls are made again one after "
        "the other, so the numbers do not show how the threads slowed each other down"
    )


def _changed_call(difference: str) -> str:
    return f"the re-runs differ from the calls that the block made: {difference}"


def _backward_in_block() -> str:
    return (
        "a backward pass ran in the block; the profile covers the model's calls only, without "
        "it: xsp.measure(step, restore=(model, optimizer)) measures whole steps and puts them back"
    )


def _steps_made(steps: int) -> str:
    return (
        f"{steps} steps were really taken, and the parameters are those after them; "
        "restore=(model, optimizer) puts back what steps change"
    )


def _other_steps(steps: int, made: int, kinds: int, named: Mapping[str, int]) -> str:
    listed = "; ".join(f"{what}: {number}" for what, number in named.items())
    more = f"; and {kinds - len(named)} other kinds" if kinds > len(named) else ""
    return (
        f"{steps} of the loop's {made} steps did other work than the structure step and are in no "
        f"number ({listed}{more})"
    )


def _left_out_calls(
    profiled: int | None = None, made: int = 0, failed: int = 0, captured: int = 0
) -> str:
    if failed:
        return f"{failed} calls that raised were left out"
    if captured:
        return f"{captured} calls under CUDA graph capture were left out"
    return (
        f"the block called the model {made} times; the first {profiled} calls are profiled, the "
        "others were left out: measure what makes them, as in xsp.measure(model.generate, ids)"
    )


def _several_gpus(gpus: int) -> str:
    return (
        f"kernels ran on {gpus} GPUs: the GPU counts as busy while any of them is, and clocks, "
        "throttling and peaks are those of the one that holds most of the target"
    )


def _overlap(activities: int, serialized: bool) -> str:
    remedy = (
        "`prof.serialized` has each layer's time alone"
        if serialized
        else "serialize=True measures each alone"
    )
    return (
        f"{activities} kernels, copies and sets of a run overlapped those of another layer on the "
        f"device, so device times of these layers include each other's: {remedy}"
    )


def _other_launches(before: int, beside: int, runs: int) -> str:
    parts = []
    if before:
        parts.append(
            f"{before} kernels, copies and sets ran inside the profiled calls that were not "
            "launched in them: they are in no row, and the calls' own may have waited for them"
        )
    if beside:
        parts.append(
            f"{beside} were launched by other threads outside every layer and count as the calls': "
            "their device times are too long if this is other work"
        )
    return f"in {runs} runs that traced kernels, {'; '.join(parts)}"


def _graph_kernels(
    activities: int,
    missing: Sequence[str] = (),
    size: int = 0,
    place: int | None = None,
    expected: str = "",
    found: str = "",
) -> str:
    if missing:
        return (
            f"kernels of CUDA graphs are led to no layers without {' and '.join(missing)}: "
            "captured_from needs both LAYER and KERNEL"
        )
    said = (
        f"{activities} kernels, copies and sets of a run were launched by CUDA graphs and belong "
        "to what launched these, not to the layers that were captured"
    )
    if not size:
        return f"{said}: xsp.measure(..., captured_from=FUNCTION), with what was captured, tells"
    if place is None:
        return (
            f"{said}: captured_from launches the {size} of one of them several times, and the "
            "replays do not tell which is which"
        )
    instead = repr(expected) if expected else "the end"
    return (
        f"{said}: captured_from does not launch the {size} of one of them, of which number "
        f"{place + 1} is {found!r}, not {instead}"
    )


def _short_kernels(
    of_time: float, of_kernels: float, shorter_ns: float, added_ns: float, visible: float
) -> str:
    return (
        f"{of_time:.0%} of the device time is in the {of_kernels:.0%} of kernels that are shorter "
        f"than {shorter_ns / 1e3:.1f} µs: tracing adds {added_ns / 1e3:.2f} µs to a short kernel "
        f"here, more than {visible:.0%} of their time"
    )


def _closure(rung: str, error: float, low: float, high: float) -> str:
    return (
        f"the corrected timeline of {rung} is {error:+.1%} off the unprofiled latency, more than "
        f"chance explains ({low:+.1%} to {high:+.1%}): its corrected times are wrong by about as "
        "much"
    )


def _uncorrected(rung: str, error: float, low: float, high: float, of: str = "latency") -> str:
    return (
        f"the corrected timeline of {rung} is {error:+.1%} off the unprofiled {of} ({low:+.1%} "
        f"to {high:+.1%}): there are no corrected times, and tables, analyses and exports use the "
        "measured times of each level's own rung"
    )


def _unknown_costs(share: float, half: float) -> str:
    return (
        f"the rungs do not tell what tracing took of the host's time ({share:.1%} ± {half:.1%} of "
        "it): there are no corrected times, and tables, analyses and exports use the measured "
        "times of each level's own rung, with intervals that allow for the tracing in them"
    )


def _unshown_costs(levels: Sequence[str]) -> str:
    return (
        f"the rungs do not show what tracing {' and '.join(levels)} costs, so it is not taken "
        "out: corrected times include it, and their intervals allow for it"
    )


def _mostly_tracing(shares: Mapping[str, float]) -> str:
    said = ", ".join(f"{share:.0%} of {kind} events" for kind, share in shares.items())
    return (
        f"the correction takes more than half of {said}: what is left of each is known less well "
        "than their sum"
    )


_SENTENCES: Mapping[Slug, Callable[..., str]] = {
    Slug.IMPRECISE: _imprecise,
    Slug.CUT_SHORT: _cut_short,
    Slug.OUT_OF_TIME: _out_of_time,
    Slug.NOT_SERIALIZED: _not_serialized,
    Slug.UNSETTLED: _unsettled,
    Slug.LOST_RECORDS: _lost_records,
    Slug.NO_LAUNCH: _no_launch,
    Slug.UNKNOWN_EVENTS: _unknown_events,
    Slug.MISSING_LAYERS: _missing_layers,
    Slug.MISSING_CALLS: _missing_calls,
    Slug.CHANGED_WORK: _changed_work,
    Slug.OTHER_MODULES: _other_modules,
    Slug.NOT_JOINED: _not_joined,
    Slug.MODIFIED_IN_PLACE: _modified_in_place,
    Slug.SHARED_GENERATORS: _shared_generators,
    Slug.HIDDEN_GENERATOR: _hidden_generator,
    Slug.SEVERAL_THREADS: _several_threads,
    Slug.CHANGED_CALL: _changed_call,
    Slug.BACKWARD_IN_BLOCK: _backward_in_block,
    Slug.STEPS_MADE: _steps_made,
    Slug.OTHER_STEPS: _other_steps,
    Slug.LEFT_OUT_CALLS: _left_out_calls,
    Slug.SEVERAL_GPUS: _several_gpus,
    Slug.OVERLAP: _overlap,
    Slug.OTHER_LAUNCHES: _other_launches,
    Slug.GRAPH_KERNELS: _graph_kernels,
    Slug.SHORT_KERNELS: _short_kernels,
    Slug.CLOSURE: _closure,
    Slug.UNCORRECTED: _uncorrected,
    Slug.UNKNOWN_COSTS: _unknown_costs,
    Slug.UNSHOWN_COSTS: _unshown_costs,
    Slug.MOSTLY_TRACING: _mostly_tracing,
}
