"""What the page and the REST interface both stand on: database, artifacts, manifests, work."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from xsp import profiles
from xsp.database.store import Store
from xsp.errors import EvaluationError
from xsp.evaluation.artifacts.store import ArtifactStore
from xsp.evaluation.dispatch.agents import Agents
from xsp.evaluation.matrix import matrix, new_run
from xsp.evaluation.predictors.registry import predictor_names
from xsp.evaluation.records import comparison, reading
from xsp.evaluation.records.evaluation import Evaluation
from xsp.evaluation.serving.catalogue import Catalogue
from xsp.evaluation.serving.work import Work
from xsp.report.page import report_html

CAPTURE = "capture"
"""The kind of trace that a report can be made of."""


@dataclass(frozen=True)
class Places:
    """Where things are: the database, the artifact store (the user's by default), and the folder of
    manifests. `allow_code` lets the Python that manifests name run.
    """

    database: str | None
    artifacts: str | None
    manifests: Path
    allow_code: bool = False


class Platform:
    """Everything that can be asked for or started. Used from several threads."""

    def __init__(self, places: Places, make_agents: Callable[[], Agents]) -> None:
        self.places = places
        self.store = Store(places.database)
        self.artifacts = ArtifactStore(places.artifacts)
        self.catalogue = Catalogue(places.manifests)
        self.work = Work(self.store, make_agents)

    def start(
        self,
        files: Sequence[str],
        predictors: Sequence[str | None],
        scenarios: Sequence[Mapping[str, Any] | None],
        trace: str = "NONE",
        on: Mapping[str, str] | None = None,
    ) -> str:
        """Start every combination, `on` agents with these labels; returns the run's id. Raises as
        `matrix` does.
        """
        if not files:
            raise EvaluationError("nothing was chosen; choose at least one manifest")
        _check_predictors(predictors)
        run = new_run()
        jobs = matrix(
            [self.catalogue.path(file) for file in files],
            run=run,
            artifacts=self.artifacts,
            predictors=predictors or [None],
            scenarios=scenarios or [None],
            trace=trace,
            allow_code=self.places.allow_code,
            on=on,
        )
        self.work.start(run, jobs)
        return run

    def evaluations(self, most: int) -> pd.DataFrame:
        """One row for each of the newest evaluations, the newest first; see
        `records.reading.evaluations`.
        """
        return reading.evaluations(self.store, most).iloc[::-1].reset_index(drop=True)

    def units(self, ids: Sequence[str]) -> dict[str, str]:
        """The units of the measures that these evaluations have, by name."""
        found = reading.measures(self.store, ids)
        return dict(zip(found["name"], found["unit"], strict=True))

    def count(self) -> tuple[int, float | None]:
        """How many evaluations there are, and when the newest was measured."""
        return reading.count(self.store)

    def evaluation(self, id: str) -> Evaluation:  # noqa: A002 - what it is called everywhere
        """One evaluation. Raises EvaluationError where there is none."""
        return reading.read(self.store, id)

    def compared(self, before: str, after: str) -> comparison.Comparison:
        """Two evaluations beside each other. Raises EvaluationError where one is not there."""
        first = self.evaluation(before)
        sessions = comparison.sessions_like(self.store, first)
        return comparison.compare(first, self.evaluation(after), sessions=sessions)

    def report(self, id: str) -> str:  # noqa: A002 - what it is called everywhere
        """The HTML report of the capture that an evaluation points at.

        Raises EvaluationError where it was not traced or the file is not in the artifact store,
        CaptureError for a damaged file.
        """
        found = self.evaluation(id)
        captures = [trace for trace in found.traces if trace.kind == CAPTURE]
        if not captures:
            raise EvaluationError(
                f"evaluation {found.id} was not traced; start it again with a trace level"
            )
        path = self.artifacts.get(captures[0].sha256)
        if path is None:
            raise EvaluationError(
                f"the capture {captures[0].sha256} of evaluation {found.id} is not in the artifact "
                f"store {self.artifacts.folder}; it may be in that of the machine that traced it"
            )
        return report_html(profiles.load(path))

    def close(self) -> None:
        """Wait for what is in flight, and let go of the database."""
        self.work.close()
        self.store.close()


def _check_predictors(asked: Sequence[str | None]) -> None:
    known = predictor_names()
    unknown = [name for name in asked if name is not None and name not in known]
    if unknown:
        raise EvaluationError(f"there is no predictor {unknown[0]!r}; known are {', '.join(known)}")
