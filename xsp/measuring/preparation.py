"""What comes before the ladder: warm-up, the untimed structure and memory runs, and the tracers
they make possible.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from xsp import levels as level_table
from xsp.analysis.spans.graph_layers import Captured
from xsp.capture.run import latency_ns, sorted_by_start, within_model
from xsp.doubts import Doubt
from xsp.levels._native.signals import held
from xsp.levels.layer.discovery import Discovered, discovered
from xsp.levels.layer.naming import qualified_names, variables_of
from xsp.levels.layer.structure import Structure
from xsp.levels.layer.structure_run import StructureRecorder
from xsp.machine import devices
from xsp.machine.dynamo_internals import compiled_frames
from xsp.measuring.collecting import no_garbage_collection
from xsp.measuring.deadline import WARM_UP_SHARE, Deadline
from xsp.measuring.doubts_about import about_hidden_generators, about_other_calls
from xsp.measuring.executor import Executor
from xsp.measuring.observed import about_difference
from xsp.measuring.options import Options
from xsp.measuring.progress import Phases
from xsp.measuring.state import PYTHON
from xsp.measuring.switching import add_note, switched, tracing
from xsp.measuring.target import Target
from xsp.measuring.warmup import warm_up
from xsp.provenance.calls import CompiledCode
from xsp.provenance.recording import Recorder
from xsp.types import Level, LevelStatus, Status, Tracer


@dataclass(frozen=True)
class Prepared:
    """A warm target whose structure is known, and a tracer for every level that can be traced.

    `device_work` is the number of kernels, copies and sets of an execution with no tracer above
    KERNEL, None where KERNEL is not traced. `recorded` has by level the rows of the structure run
    (`Tracer.recorded`), and took `structure_s`. `compilations` is Dynamo's count when the target
    was warm.
    `recorder` has what kernels stand for that were compiled in the warm-up, `runs_compiled_code`
    says whether the target calls any.
    `doubts` are for the profile's warnings, `modules` names what was called and what lies below it.
    `captured` is what the target's CUDA graphs hold.
    """

    executor: Executor
    statuses: tuple[LevelStatus, ...]
    structure: Structure
    structure_s: float
    recorded: dict[Level, list[dict[str, Any]]]
    tracers: dict[Level, Tracer]
    device_work: int | None
    compilations: int
    recorder: Recorder
    runs_compiled_code: bool
    doubts: tuple[Doubt | str, ...]
    modules: Mapping[nn.Module, str]
    captured: tuple[Captured, ...] = ()

    @property
    def traced(self) -> tuple[Level, ...]:
        """The levels that are traced, outermost first."""
        return tuple(status.level for status in self.statuses if status.status is Status.TRACED)


def prepare(executor: Executor, options: Options, deadline: Deadline, shown: Phases) -> Prepared:
    """Warm the target up and find out, in untimed runs, what it consists of."""
    # Trying a level runs a kernel: where the target's own will run, so that no other GPU is woken
    # up for it.
    with devices.on(executor.target.device()):
        statuses = tuple(level_table.statuses(options.levels, options.refused))
    traced = [status.level for status in statuses if status.status is Status.TRACED]
    executor.ranks.same("the traced levels", [level.name for level in traced])
    doubts: list[Doubt | str] = []
    shown.begin("warm-up")
    recorder = Recorder()
    with recorder.on_when_compiling():
        found = _warmed_up(executor, options, doubts, deadline, shown)
    executor.watch_steps(found.roots)
    compiled = compiled_frames()
    watched, code = Discovered(), CompiledCode()
    shown.begin("structure")
    begin = time.perf_counter()
    with switched(code.watched()), no_garbage_collection():
        recorder_of_layers = _recorder(executor.target, found, options)
        structure, recorded = _structure(executor, recorder_of_layers, watched, traced)
    structure_s = time.perf_counter() - begin
    names = recorder_of_layers.names
    if not set(watched.roots) <= set(found.roots):
        names = qualified_names([*found.roots, *watched.roots], _variables(executor.target))
    differing = found.differently(watched).items()
    doubts += about_other_calls(
        {names.get(module, type(module).__name__): counts for module, counts in differing}
    )
    if executor.target.model is not None or options.restore:
        called = {module: names.get(module, type(module).__name__) for module in found.calls}
        doubts += about_hidden_generators(called)
    tracers = level_table.timed_tracers(traced, structure)
    doubts += [sentence for tracer in tracers.values() for sentence in tracer.doubts()]
    device_work = _device_work(executor, tracers)
    return Prepared(
        executor,
        statuses,
        structure,
        structure_s,
        recorded,
        tracers,
        device_work,
        compiled,
        recorder,
        code.ran,
        tuple(doubts),
        names,
    )


def _warmed_up(
    executor: Executor,
    options: Options,
    doubts: list[Doubt | str],
    deadline: Deadline,
    shown: Phases,
) -> Discovered:
    """The first run, under watch for the modules it calls, then warm-up runs."""
    found = Discovered()
    with (
        _noted("while xsp looked for its layers" + _made_before(executor.target), found.roots),
        held(),
        switched(discovered(found)),
    ):
        executor.run(found.new_run)
        if executor.ranks.any(PYTHON in (executor.drawn or ())):
            # The first run did not start from the state that the others start from, and may have
            # gone another way.
            executor.run(found.new_run)

    doubts += about_difference(executor, found)

    def run() -> int:
        shown.step()
        return latency_ns(executor.run())

    with tracing([], "in a warm-up run"):
        _, unsettled = warm_up(
            run,
            options.warmup,
            WARM_UP_SHARE * min(options.budget_s, deadline.left_s),
            executor.ranks.any,
        )
    if unsettled:
        doubts.append(unsettled)
    return found


def _made_before(target: Target) -> str:
    if target.start is None:
        return ""
    return (
        "; in the block the call had returned, so it depends on something that is neither in its "
        "arguments nor in its modules, or on calls that raised there, which are not made again"
    )


@contextmanager
def _noted(when: str, roots: list[nn.Module]) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        failed = error.__dict__.pop("_xsp_layer", None)
        name = qualified_names(roots).get(failed) if failed is not None else None
        kind = "" if failed is None else type(failed).__name__
        where = f"in layer {name!r} ({kind}), " if name else f"in {kind}, " if kind else ""
        add_note(error, f"xsp: raised {where}{when}")
        raise


def _recorder(target: Target, found: Discovered, options: Options) -> StructureRecorder:
    outside = "" if target.model is not None else target.name.rpartition(".")[2]
    return StructureRecorder(
        found,
        outside,
        variables=_variables(target),
        ranges_are_layers=options.ranges_as_layers,
    )


def _structure(
    executor: Executor,
    recorder: StructureRecorder,
    watched: Discovered,
    traced: list[Level],
) -> tuple[Structure, dict[Level, list[dict[str, Any]]]]:
    """The untimed structure run: layers, and by level what other tracers record there. What it
    calls is added to `watched`.
    """
    others = level_table.recorders(traced)

    def ready() -> None:
        recorder.new_run()
        watched.new_run()

    with (
        held(),
        tracing(list(others.values()), "in the structure run"),
        switched(discovered(watched, blame=False)),
        switched(recorder),
    ):
        calls = executor.run(ready)
    with no_garbage_collection():
        rows = {level: tracer.recorded(calls) for level, tracer in others.items()}
        return recorder.within(calls), rows


def _variables(target: Target) -> dict[nn.Module, str]:
    """How a plain callable calls the modules that it reaches; a model's own have their names."""
    return {} if target.model is not None else variables_of(target.calls[0].function)


def _device_work(executor: Executor, tracers: dict[Level, Tracer]) -> int | None:
    """Some code runs other kernels when it sees hooks or torch function modes (the fast path of
    nn.TransformerEncoderLayer): what the deepest rung executes must be what the program executes
    without them.
    """
    if Level.KERNEL not in tracers:
        return None
    kernel = tracers[Level.KERNEL]
    with held(), tracing([kernel], "while only its kernels were traced"):
        calls = executor.run()
    tables = kernel.collect()
    launches = within_model(sorted_by_start(tables["api_calls"]), calls)[0]["correlation_id"]
    return int(np.isin(tables["device_activity"]["correlation_id"], launches).sum())
