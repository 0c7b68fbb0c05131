"""Compiled graphs with their launches, each with what it stands for and how sure that is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from xsp.machine import compiler_internals as compiler
from xsp.machine.ambient import Ambient
from xsp.machine.compiler_internals import LiveGraph
from xsp.provenance.origins import Origin, line_of
from xsp.provenance.recording import Record, Recorder
from xsp.provenance.wrapper_text import EXTERN, TRITON, Written, launches

EXACT, VERIFIED, INFERRED, UNKNOWN = "exact", "verified", "inferred", "unknown"
"""How sure it is what a launch stands for: written down while its code was generated; the same for
code generated again, whose text is that of the live one; read off a line number of the live text;
not known.
"""


_NOT_THE_SAME = (
    "code that was compiled before it was watched could not be generated again: what Dynamo keeps "
    "of it gives another text than the one that runs"
)


@dataclass(frozen=True)
class Launch:
    """One launch of a graph: `ordinal` counts those of the graph, `kind` is "triton", "template",
    "extern" or "cpp".
    """

    ordinal: int
    kernel: str
    kind: str
    confidence: str
    origins: tuple[Origin, ...]


@dataclass(frozen=True)
class CompiledGraph:
    """One graph that Inductor compiled, and what it launches, in order."""

    live: LiveGraph
    phase: str
    launches: tuple[Launch, ...]


@dataclass
class Found:
    """Compiled graphs, and sentences on what could not be found out about them."""

    graphs: list[CompiledGraph] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def explained(
    graphs: Sequence[LiveGraph],
    recorder: Recorder,
    may_go_on: Callable[[], bool] = lambda: True,
    modes: Mapping[int, Ambient] | None = None,
) -> Found:
    """What the launches of these graphs stand for: by records where their compilation was
    watched, else by generating the code again, as long as `may_go_on`.

    `modes` are those in which Dynamo's modules were called, by identity (`Entries`); what is not
    there is taken to be called as the caller calls this.
    """
    recorded = {id(each.handle): recorder.of_compiled(each.handle) for each in graphs}
    missing = [each for each in graphs if recorded[id(each.handle)] is None]
    again, remarks = _generated_again(missing, may_go_on, modes or {})
    found = Found(remarks=[*dict.fromkeys([*recorder.failed, *remarks])])
    for each in graphs:
        records = recorded[id(each.handle)]
        sure = EXACT
        if records is None:
            records, sure = again.get(compiler.same_code(each.text)), VERIFIED
        phase = "backward" if each.is_backward else "forward"
        written = launches(each.text)
        made = _recorded(written, records, sure) if records is not None else _by_line(each, written)
        found.graphs.append(CompiledGraph(each, phase, tuple(made)))
    return found


def _generated_again(
    graphs: Sequence[LiveGraph], may_go_on: Callable[[], bool], modes: Mapping[int, Ambient]
) -> tuple[dict[str, list[Record]], list[str]]:
    """Records by text of code generated again, until all of these graphs' texts are there."""
    wanted = {compiler.same_code(each.text) for each in graphs}
    found: dict[str, list[Record]] = {}
    remarks: list[str] = []
    if not wanted:
        return found, remarks
    traced = [each.module for each in compiler.dynamo_graphs()]
    # What was seen to be called first: the rest belongs to other programs, as a rule.
    traced.sort(key=lambda module: id(module) not in modes)
    for module in traced:
        called_in = modes.get(id(module), Ambient.current())
        for settings in compiler.settings_in_use():
            if wanted <= set(found):
                return found, remarks
            if not may_go_on():
                return found, [*remarks, "there was no time to generate code again"]
            try:
                with called_in.restored():
                    texts = records_of_code(module, settings)
            except Exception as error:  # whatever another release, or a program's own pass, raises
                remarks.append(_failed(error))
                continue
            found |= texts
            if wanted & set(texts):
                break
    if not wanted <= set(found) and not remarks:
        remarks.append(_NOT_THE_SAME)
    return found, remarks


def _failed(error: Exception) -> str:
    said = next(iter(str(error).splitlines()), "")[:120]
    return (
        "code that was compiled before it was watched could not be generated again "
        f"({type(error).__name__}: {said})"
    )


def records_of_code(module: Any, settings: dict[str, Any]) -> dict[str, list[Record]]:
    """Records by text (`same_code`) of the graphs that Dynamo's `module` is compiled to."""
    recorder = Recorder()
    texts: dict[str, list[Record]] = {}

    def generated(graph: Any, text: str) -> None:
        texts[compiler.same_code(text)] = list(recorder.of_graph_in_work(graph))

    with recorder.on():
        compiler.code_of(module, settings, generated)
    return texts


def _recorded(written: Sequence[Written], records: Sequence[Record], sure: str) -> Iterable[Launch]:
    """Launches with their records, in the order of both. A launch that was not announced is the
    end of the one before if the wrapper itself does it, and unknown else.
    """
    place = 0
    before: tuple[Origin, ...] = ()
    for ordinal, each in enumerate(written):
        record = records[place] if place < len(records) else None
        if record is not None and _is_of(record, each):
            place += 1
            kind = record.kind if record.kind == "template" else each.kind
            before = record.origins
            yield Launch(ordinal, each.name, kind, sure if before else UNKNOWN, before)
        elif each.name.startswith(".") and before:
            yield Launch(ordinal, each.name, each.kind, INFERRED, before)
        else:
            yield Launch(ordinal, each.name, each.kind, UNKNOWN, ())


def _is_of(record: Record, written: Written) -> bool:
    if record.name is None:
        return written.kind == TRITON
    return record.name == written.name


def _by_line(graph: LiveGraph, written: Sequence[Written]) -> Iterable[Launch]:
    """The line of the program that each launch's last node came from, which Inductor keeps."""
    for ordinal, each in enumerate(written):
        traces = [trace for line, trace in graph.lines if line <= each.line]
        source = line_of(traces[-1]) if traces else ""
        operator = each.name if each.kind == EXTERN else ""
        origin = Origin("", operator, (), "", source, None, graph.is_backward)
        known = (origin,) if source else ()
        yield Launch(ordinal, each.name, each.kind, INFERRED if known else UNKNOWN, known)
