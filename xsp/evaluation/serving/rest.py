"""The REST interface. FastAPI makes its OpenAPI schema from what is declared here."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, FastAPI, HTTPException, Query, Request
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from xsp.errors import EvaluationError, XspError
from xsp.evaluation.predictors.registry import predictor_names
from xsp.evaluation.records.answers import comparison_values, evaluation_values, json_rows
from xsp.evaluation.records.evaluation import Evaluation
from xsp.evaluation.serving.platform import Platform

PREFIX = "/api"
_MOST = 10_000


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ManifestEntry(BaseModel):
    """A file of the folder of manifests; `fault` says why it cannot be started."""

    file: str
    name: str | None
    model: str | None
    version: str | None
    task: str | None
    predictor: str | None
    scenario: str | None
    fault: str


class Start(_Body):
    """What to evaluate: every combination of the three. None or an empty list stands for what each
    manifest says itself.
    """

    manifests: list[str] = Field(min_length=1, max_length=_MOST)
    predictors: list[str] = Field(default=[], max_length=100)
    scenarios: list[dict[str, Any]] = Field(default=[], max_length=100)
    trace: str = "NONE"
    on: dict[str, str] = Field(default={}, description="Labels of agents, such as a host.")


class Started(BaseModel):
    """The id of a run; its jobs are listed under `/api/jobs`."""

    run: str


class JobEntry(BaseModel):
    """A job that was started here. Times are unix times."""

    run: str
    key: str
    model: str
    predictor: str
    scenario: str
    state: str
    agent: str
    evaluation: str | None
    error: str
    started_at: float | None
    ended_at: float | None


class MeasureEntry(BaseModel):
    """A value with its 95 % interval; null is unknown, and `reason` says why."""

    name: str
    value: float | None
    unit: str
    low: float | None
    high: float | None
    reason: str = ""
    runs: Literal["untraced"] = Field(description="Numbers come from no run that was traced.")


class TraceEntry(BaseModel):
    """A file of the artifact store."""

    sha256: str
    kind: str
    level: str
    spans: int
    trace_id: str
    runs: Literal["traced"] = Field(description="Of their own: no measure comes from them.")


class EvaluationEntry(BaseModel):
    """One evaluation. `doubts` and `reasons` belong to its numbers."""

    id: str
    name: str
    model: str
    version: str
    predictor: str
    runtime: str
    scenario: str
    valid: bool
    reasons: list[str]
    doubts: list[str]
    measured_at: float
    measures: list[MeasureEntry]
    traces: list[TraceEntry]
    system: dict[str, Any]
    manifest: dict[str, Any]


class ComparisonEntry(BaseModel):
    """A verdict on latency, with the 95 % interval of the ratio, and sentences."""

    before: str
    after: str
    verdict: str
    ratio: float | None
    low: float | None
    high: float | None
    p_value: float | None
    accuracy: list[dict[str, Any]]
    doubts: list[str]
    sentences: list[str]


def add_routes(server: FastAPI, platform: Platform) -> None:
    """Everything below `/api`, and errors as JSON: `detail` is the sentence."""
    server.include_router(_catalogue_routes(platform))
    server.include_router(_job_routes(platform))
    server.include_router(_evaluation_routes(platform))
    server.add_exception_handler(XspError, _told)


def _catalogue_routes(platform: Platform) -> APIRouter:
    router = APIRouter(prefix=PREFIX, tags=["catalogue"])

    @router.get("/manifests")
    def manifests() -> list[ManifestEntry]:
        """The files that can be started."""
        return [_manifest_entry(each) for each in platform.catalogue.entries()]

    @router.get("/predictors")
    def predictors() -> list[str]:
        """Names of the runtimes that can be asked for."""
        return predictor_names()

    return router


def _job_routes(platform: Platform) -> APIRouter:
    router = APIRouter(prefix=PREFIX, tags=["jobs"])

    @router.post("/runs", status_code=202)
    def start(body: Start) -> Started:
        """Start every combination; they run one after another."""
        run = platform.start(
            body.manifests, list(body.predictors), list(body.scenarios), body.trace, body.on
        )
        return Started(run=run)

    @router.delete("/runs/{run}", status_code=204)
    def stop(run: str) -> None:
        """Start no further job of a run."""
        platform.work.stop(run)

    @router.get("/jobs")
    def jobs(run: str | None = None) -> list[JobEntry]:
        """What was started here, and how far it is."""
        states = [each for each in platform.work.states() if run in (None, each.run)]
        return [JobEntry(**asdict(each)) for each in states]

    return router


def _evaluation_routes(platform: Platform) -> APIRouter:
    router = APIRouter(prefix=PREFIX, tags=["evaluations"])

    @router.get("/evaluations")
    def evaluations(
        limit: Annotated[int, Query(ge=1, le=_MOST)] = 1000, skip: Annotated[int, Query(ge=0)] = 0
    ) -> list[dict[str, Any]]:
        """One row for each, the newest first: facts, then a value for each measure. `traced` is the
        level of traces, which were made by other runs than those measured, or null.
        """
        return json_rows(platform.evaluations(skip + limit).iloc[skip:])

    @router.get("/evaluations/{id}")
    def evaluation(id: str) -> EvaluationEntry:  # noqa: A002 - what it is called everywhere
        """One of them whole, without its queries."""
        return EvaluationEntry(**evaluation_values(_there(platform, id)))

    @router.get("/evaluations/{id}/report", response_class=HTMLResponse)
    def report(id: str) -> HTMLResponse:  # noqa: A002 - likewise
        """The profile that was traced, down to layers and kernels, as a page."""
        return HTMLResponse(platform.report(_there(platform, id).id))

    @router.get("/comparisons")
    def comparison(before: str, after: str) -> ComparisonEntry:
        """Two evaluations beside each other."""
        for each in (before, after):
            _there(platform, each)
        return ComparisonEntry(**comparison_values(platform.compared(before, after)))

    return router


def _manifest_entry(each: Any) -> ManifestEntry:
    manifest = each.manifest
    return ManifestEntry(
        file=each.file,
        name=manifest and manifest.name,
        model=manifest and manifest.model.name,
        version=manifest and manifest.model.version,
        task=manifest and manifest.model.task,
        predictor=manifest and manifest.runtime.predictor,
        scenario=manifest and manifest.scenario.kind,
        fault=each.fault,
    )


def _there(platform: Platform, id: str) -> Evaluation:  # noqa: A002 - what it is called everywhere
    try:
        return platform.evaluation(id)
    except EvaluationError as error:
        raise HTTPException(404, str(error)) from error


def _told(_request: Request, error: Exception) -> JSONResponse:
    """What was asked wrongly is the asker's, what cannot be read or written is ours."""
    status = 422 if isinstance(error, EvaluationError) else 503
    return JSONResponse({"detail": str(error)}, status)
