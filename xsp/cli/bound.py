"""`xsp bound`: how fast a model could be, by every algorithm that the libraries here offer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xsp.cli.database import Place
from xsp.cli.graph_source import Shapes, Values, graph_from, graph_of_work, target_work
from xsp.cli.shared import AsJson, BudgetS, JsonFile, NoProgress, silent
from xsp.extras import require
from xsp.words.numbers import known

if TYPE_CHECKING:
    from xsp.bounds.finding import Finding
    from xsp.bounds.lower_bound import LowerBound
    from xsp.bounds.running import Measured
    from xsp.graphs.graph import Graph
    from xsp.profiles import Profile

_ROWS = 12


def bound(
    source: Annotated[
        str,
        typer.Argument(
            help="`file.py:function` as for `xsp profile`: the model is measured too. Or a capture "
            "`*.xsp`, `model.onnx`, a graph `*.json`.",
            metavar="SOURCE",
        ),
    ],
    shape: Shapes = None,
    value: Values = None,
    place: Place = None,
    device: Annotated[
        str | None, typer.Option(help="cuda or cpu; the GPU where there is one.")
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure/--no-measure", help="Measure what the database lacks.")
    ] = True,
    variants: Annotated[
        bool,
        typer.Option(
            "--variants/--no-variants", help="Other layouts, fused products and narrower types too."
        ),
    ] = True,
    cold: Annotated[bool, typer.Option("--cold", help="Measure with cold caches too.")] = False,
    budget_s: BudgetS = None,
    profile_s: Annotated[
        float, typer.Option("--profile-s", help="Seconds for measuring the model.")
    ] = 10.0,
    rows: Annotated[int, typer.Option(help="Layers to show at most; 0 for all.")] = _ROWS,
    package: Annotated[
        Path | None,
        typer.Option(
            help="Write the benchmarks as a package of their own, without weights and names."
        ),
    ] = None,
    for_programs: AsJson = False,
    json_path: JsonFile = None,
    quiet: NoProgress = False,
) -> None:
    """Measure every layer through every algorithm, and say how fast the model could be.

    Prints the lower bound by granularity, the layers with the most to gain, and what to try. What
    was measured stays in the performance database: the next model that shares layers is quick.
    """
    from xsp.bounds.running import device_of, measure_missing
    from xsp.bounds.wanted import wanted_of
    from xsp.database.store import Store

    only_json = for_programs and json_path is None
    with silent(only_json):
        where = device_of(device)
        with Store(place) as store:
            graph, prof = _read(source, shape or [], value or [], profile_s, quiet)
            done: Measured | None = None
            if measure:
                wanted = wanted_of([graph], where, with_variants=variants)
                done = measure_missing(
                    store,
                    wanted,
                    where,
                    cold=cold,
                    budget_s=budget_s,
                    progress=False if quiet else None,
                )
                for note in done.notes:
                    typer.echo(note)
            found = _bound(graph, prof, store, where)
        _print(found, done, rows)
        answers = _findings(prof, found)
        _print_findings(answers)
        if package is not None:
            from xsp.bounds.package import write_package

            typer.echo(f"benchmarks written to {write_package([graph], package)}")
        if json_path is not None:
            from xsp.capture.writing import write_file

            text = json.dumps(as_json(found, answers), indent=1) + "\n"
            typer.echo(f"bound written to {write_file(json_path, text.encode())}")
    if only_json:
        typer.echo(json.dumps(as_json(found, answers), indent=1))


def _read(
    source: str, shapes: list[str], values: list[str], profile_s: float, quiet: bool
) -> tuple[Graph, Profile | None]:
    """The graph, and what was measured of the model: of a capture, or of a target here and now."""
    kind = Path(source.partition(":")[0]).suffix
    if kind == ".xsp":
        from xsp.profiles import load

        return graph_from(source), load(source)
    if kind in {".onnx", ".json"}:
        return graph_from(source, shapes, values), None
    require("torch")
    import torch

    from xsp.profiler import measure as measured

    work = target_work(source)
    graph = graph_of_work(work, source)
    with torch.set_grad_enabled(work.grad):
        prof = measured(
            work.function,
            *work.args,
            budget_s=profile_s,
            progress=False if quiet else None,
            **work.kwargs,
        )
    return graph, prof


def _bound(graph: Graph, prof: Profile | None, store: Any, where: str) -> LowerBound:
    from xsp.bounds.lower_bound import bound_of, lower_bound
    from xsp.bounds.roofs import Flags, Peaks

    if prof is not None:
        return lower_bound(prof, store, graph=graph)
    from xsp.database.entry import Machine
    from xsp.machine.environment import environment

    facts = environment()
    machine = Machine.of(facts, where)
    return bound_of(
        graph,
        machine,
        store.entries(machine),
        Peaks.of(facts, where),
        flags=Flags.of(facts),
    )


def _findings(prof: Profile | None, found: LowerBound) -> list[Finding]:
    from xsp.bounds.findings import MOST
    from xsp.errors import XspError

    if prof is None:
        return []
    try:
        return prof.findings(found)[: MOST + 1]
    except XspError as error:
        typer.echo(f"there are no suggestions: {error}")
        return []


def _print(found: LowerBound, done: Measured | None, rows: int) -> None:
    if done is not None:
        typer.echo(
            f"{done.layers} layers measured in {done.seconds:.1f} s: {done.algorithms} algorithms "
            f"ran, {done.failed} did not"
            + (f"; left for another time: {_left(done)}" if done.unfinished else "")
        )
    latency = f"measured {found.latency_ms:.3f} ms" if found.latency_ms > 0 else "not measured"
    word = "lower bound" if found.is_bound else "estimate, no bound"
    typer.echo(f"\n{found.graph.name} on {found.machine.name}: {latency}; {word}")
    columns = {
        "sequential_ms": "{:.4f}".format,
        "half_width_ms": "{:.4f}".format,
        "parallel_ms": "{:.4f}".format,
        "ratio": "{:.3f}".format,
        "parallel_ratio": "{:.3f}".format,
        "covered": "{:.0%}".format,
    }
    typer.echo(found.summary.to_string(index=False, formatters=columns, na_rep="–"))
    if found.launch_ms > 0:
        typer.echo(f"launching one kernel a layer takes the host {found.launch_ms:.3f} ms at least")
    for doubt in found.doubts:
        typer.echo(f"doubt: {doubt}")
    table = found.layers.assign(gain_ms=found.layers["measured_ms"] - found.layers["bound_ms"])
    order = "gain_ms" if table["gain_ms"].notna().any() else "bound_ms"
    table = table.sort_values(order, ascending=False)
    shown = table if rows <= 0 else table.head(rows)
    columns_shown = ["name", "operator", "precision", "measured_ms", "bound_ms", "algorithm"]
    typer.echo("\nlayers with the most to gain")
    typer.echo(
        shown[columns_shown].to_string(
            index=False, na_rep="–", float_format="{:.4f}".format, max_colwidth=48
        )
    )


def _left(done: Measured) -> str:
    """How many layers the time budget left, by the granularity that asks for them."""
    return ", ".join(f"{count} layers for {name}" for name, count in done.left.items())


def _print_findings(answers: list[Finding]) -> None:
    if answers:
        typer.echo("\ntry")
    for each in answers:
        typer.echo(f"  Q{each.question} {each.kind}: {each.sentence()}")
        if each.check:
            typer.echo(f"     check: {each.check[:200]}")


def as_json(found: LowerBound, answers: list[Finding]) -> dict[str, Any]:
    """Bound and findings as JSON-able values; what is not known is null."""
    return {
        "model": found.graph.name,
        "machine": dict(found.machine.facts),
        "source": found.graph.source,
        "layers": len(found.graph),
        "unique": len(set(found.graph.keys)),
        "latency_ms": known(found.latency_ms),
        "latency_ci_ms": known(found.latency_ci_ms),
        "launch_ms": known(found.launch_ms),
        "is_bound": found.is_bound,
        "doubts": list(found.doubts),
        "bounds": {
            name: {
                "sequential_ms": known(each.sequential_ms),
                "parallel_ms": known(each.parallel_ms),
                "half_width_ms": known(each.half_width_ms),
                "covered": each.covered,
            }
            for name, each in found.bounds.items()
        },
        "findings": [
            {
                "question": each.question,
                "kind": each.kind,
                "layer": each.layer,
                "gain_ms": known(each.gain_ms),
                "half_width_ms": known(each.half_width_ms),
                "evidence": each.evidence,
                "advice": each.advice,
                "check": each.check,
                "lines": list(each.lines),
            }
            for each in answers
        ],
    }
