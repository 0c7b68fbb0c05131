"""`xsp evaluate`: what a manifest specifies, measured, kept, repeated and compared."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xsp.cli.database import Place
from xsp.cli.keeping import checked_all, put
from xsp.cli.matrix import Told, go_on, start
from xsp.cli.shared import AsJson, JsonFile, silent
from xsp.errors import EvaluationError
from xsp.evaluation.extra import needed

if TYPE_CHECKING:
    from xsp.database.store import Store
    from xsp.evaluation.records.evaluation import Evaluation

_OF_MANIFESTS = ("--predictor", "--scenario", "--job-limit")
_COLUMNS = ["id", "measured_at", "model", "version", "predictor", "device", "scenario", "valid"]


def evaluate(
    manifests: Annotated[
        list[Path] | None,
        typer.Argument(help="Manifests, YAML files.", metavar="[MANIFEST]..."),
    ] = None,
    predictor: Annotated[
        list[str] | None,
        typer.Option(
            help="Another runtime than the manifest's: torch, torch-compile, torchscript, "
            "torch-export, onnxruntime, or one of another package; several are evaluated in turn."
        ),
    ] = None,
    scenario: Annotated[
        list[str] | None,
        typer.Option(
            help="Another scenario: its kind, or its settings as in a manifest, such as "
            "'{kind: offline, samples: 1000}'; several are evaluated in turn."
        ),
    ] = None,
    again: Annotated[
        str | None,
        typer.Option("--from", help="Run a recorded evaluation again, and compare.", metavar="ID"),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(help="Evaluate on a Ray cluster: its address, or `local` to start one here."),
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(help="Go on with a run of several that was ended.", metavar="RUN"),
    ] = None,
    job_limit: Annotated[
        float | None,
        typer.Option(
            help="End an evaluation of several that takes longer, with its process.",
            metavar="SECONDS",
            min=0.001,
        ),
    ] = None,
    trace: Annotated[
        str, typer.Option(help="NONE, MODEL, FRAMEWORK, SYSTEM or FULL, by a run of its own.")
    ] = "NONE",
    allow_code: Annotated[
        bool, typer.Option("--allow-code", help="Run the Python that the manifest names.")
    ] = False,
    allow_fetch: Annotated[
        bool, typer.Option("--allow-fetch", help="Fetch artifacts that are not here.")
    ] = False,
    label: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE, kept with the system.")
    ] = None,
    place: Place = None,
    artifacts: Annotated[
        Path | None,
        typer.Option(help="Folder of the artifact store; XSP_ARTIFACTS by default."),
    ] = None,
    listed: Annotated[
        bool, typer.Option("--list", help="Show the evaluations of the database.")
    ] = False,
    compared: Annotated[
        tuple[str, str] | None,
        typer.Option("--compare", help="Compare two recorded evaluations.", metavar="ID ID"),
    ] = None,
    add: Annotated[
        Path | None, typer.Option(help="Put in an evaluation that was kept in a file.")
    ] = None,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON schema of manifests.")
    ] = False,
    as_json: AsJson = False,
    json_path: JsonFile = None,
) -> None:
    """Evaluate a model as a manifest specifies it, and keep everything in the database.

    Give manifests, or one of --resume, --from, --list, --compare, --add and --schema. Several
    manifests, those on a Ray cluster, and those with --job-limit, are evaluated as jobs.
    """
    given = [manifests or None, resume, again, listed or None, compared, add, schema or None]
    if sum(each is not None for each in given) != 1:
        raise EvaluationError(
            "give manifests, or one of --resume, --from, --list, --compare, --add and --schema"
        )
    _refuse_unheeded(
        [] if manifests else [*([] if resume else ["--ray"]), *_OF_MANIFESTS],
        {"--ray": ray, "--predictor": predictor, "--scenario": scenario, "--job-limit": job_limit},
    )
    checked_all(json_path)
    only_json = as_json and json_path is None
    with needed("xsp evaluate"), silent(only_json):
        if schema:
            told = _print_schema()
        elif resume is not None:
            told = go_on(resume, ray=ray, database=place)
        elif manifests:
            told = _evaluate(
                manifests,
                ray,
                predictor or [None],
                [_scenario(each) for each in scenario or []] or [None],
                job_limit,
                database=place,
                artifacts=artifacts,
                trace=trace,
                allow_code=allow_code,
                allow_fetch=allow_fetch,
                labels=_labels(label or []),
            )
        elif again is not None:
            told = _repeat(
                again,
                database=place,
                artifacts=artifacts,
                trace=trace,
                allow_code=allow_code,
                allow_fetch=allow_fetch,
                labels=_labels(label) if label else None,
            )
        else:
            told = _from_database(place, compared, add)
    if only_json or json_path is not None:
        put(json.dumps(told.values, indent=1) + "\n", json_path)
    if not told.well:
        raise typer.Exit(1)


def _refuse_unheeded(unheeded: list[str], given: dict[str, Any]) -> None:
    """Raises EvaluationError for an option that would change nothing."""
    wrong = [name for name in unheeded if given[name]]
    if wrong:
        raise EvaluationError(
            f"{wrong[0]} says how manifests are evaluated, and none is given; leave it out, or "
            "give a manifest"
        )


def _print_schema() -> Told:
    from xsp.evaluation.manifest.reading import schema

    found = schema()
    typer.echo(json.dumps(found, indent=1))
    return Told(found)


def _evaluate(
    manifests: list[Path],
    ray: str | None,
    predictors: list[Any],
    scenarios: list[Any],
    job_limit: float | None,
    **options: Any,
) -> Told:
    if ray is not None or len(manifests) > 1 or job_limit is not None:
        options["time_limit_s"] = job_limit
        return start(manifests, predictors, scenarios, ray=ray, **options)
    from xsp.evaluation.records.answers import evaluation_values
    from xsp.evaluation.running import evaluate as run
    from xsp.evaluation.scenarios.process import MeasuredProcess

    (manifest,) = manifests
    values = []
    with MeasuredProcess() as process:
        for predictor in predictors:
            for scenario in scenarios:
                changes = {"predictor": predictor, "scenario": scenario}
                found = run(manifest, process=process, **changes, **options)
                _show(found, options["artifacts"])
                values.append(evaluation_values(found))
    return Told(values)


def _show(found: Evaluation, artifacts: Path | None) -> None:
    """The evaluation, and how its capture is read."""
    from xsp.evaluation.artifacts.store import ArtifactStore
    from xsp.evaluation.tracing import CAPTURE

    typer.echo(found)
    for trace in found.traces:
        if trace.kind == CAPTURE:
            path = ArtifactStore(artifacts).place(trace.sha256)
            typer.echo(f"  xsp report {shlex.quote(str(path))} shows the capture")


def _repeat(again: str, **options: Any) -> Told:
    from xsp.evaluation.records.answers import comparison_values, evaluation_values
    from xsp.evaluation.repeating import repeat

    found, comparison = repeat(again, **options)
    _show(found, options["artifacts"])
    typer.echo(comparison)
    values = evaluation_values(found), comparison_values(comparison)
    return Told(dict(zip(("evaluation", "comparison"), values, strict=True)))


def _from_database(place: Any, compared: tuple[str, str] | None, add: Path | None) -> Told:
    from xsp.database.store import Store

    with Store(place) as store:
        if compared is not None:
            return _compare(store, *compared)
        if add is not None:
            return _add(store, add)
        return _list(store)


def _list(store: Store) -> Told:
    from xsp.evaluation.records.answers import json_rows
    from xsp.evaluation.records.evaluation import when
    from xsp.evaluation.records.reading import evaluations

    table = evaluations(store)
    if table.empty:
        typer.echo("there are no evaluations")
        return Told([])
    shown = table[_COLUMNS].copy()
    shown["measured_at"] = table["measured_at"].map(when)
    shown["traced"] = table["traced"].fillna("no")
    if "latency_p50" in table:
        shown["p50_ms"] = table["latency_p50"] / 1e6
    if "throughput" in table:
        shown["inputs_per_s"] = table["throughput"]
    shown["system"] = table["system"]
    typer.echo(shown.to_string(index=False, na_rep="–", float_format="{:.4g}".format))
    return Told(json_rows(table))


def _compare(store: Store, first: str, second: str) -> Told:
    from xsp.evaluation.records.answers import comparison_values
    from xsp.evaluation.records.comparison import compare, sessions_like
    from xsp.evaluation.records.reading import read

    before, after = read(store, first), read(store, second)
    found = compare(before, after, sessions=sessions_like(store, before))
    typer.echo(found)
    return Told(comparison_values(found))


def _add(store: Store, path: Path) -> Told:
    from xsp.evaluation.records.answers import evaluation_values
    from xsp.evaluation.records.transport import load
    from xsp.evaluation.records.writing import write

    found = load(path)
    told = "kept" if write(store, found) else "was there already"
    typer.echo(f"evaluation {found.id} {told}")
    return Told(evaluation_values(found))


def _scenario(text: str) -> Any:
    from xsp.evaluation.manifest.document import DocumentError, parse

    with needed("xsp evaluate"):
        try:
            found = parse(text.encode()).content
        except DocumentError as error:
            raise EvaluationError(f"the scenario {text!r} {error.what}") from error
    return {"kind": found} if isinstance(found, str) else found


def _labels(given: list[str]) -> dict[str, str]:
    pairs = [each.partition("=") for each in given]
    for name, sign, _ in pairs:
        if not name or not sign:
            raise EvaluationError(f"--label must be NAME=VALUE, not {name!r}")
    return {name: value for name, _, value in pairs}
