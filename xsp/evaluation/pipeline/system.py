"""What a scenario queries: the model of a manifest, made anew in the process that is measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from xsp.errors import EvaluationError
from xsp.evaluation.artifacts.store import ArtifactStore
from xsp.evaluation.manifest.judging import Judged
from xsp.evaluation.manifest.model import Manifest, Requirements
from xsp.evaluation.manifest.reading import manifest_from_record
from xsp.evaluation.pipeline.assembling import Assembled, assemble
from xsp.evaluation.predictors.predictor import Batch
from xsp.evaluation.scenarios.settings import SingleStream

MOST_BYTES = 1 << 30
"""Prepared samples are held in memory up to here; MLPerf calls them performance samples."""


@dataclass(frozen=True)
class MakeSystem:
    """Makes the system of a gathered manifest; can be pickled.

    Args:
        manifest: canonical JSON; see `of`.
        store: the folder of the artifact store.
        allow_code: whether the manifest's code may run.

    """

    manifest: str
    store: Path
    allow_code: bool

    @classmethod
    def of(cls, manifest: Manifest, store: ArtifactStore, *, allow_code: bool) -> MakeSystem:
        """Equal for evaluations that differ only in how queries arrive and what is judged: tests of
        equal systems can share a process.
        """
        alike = {
            "description": "",
            "scenario": SingleStream(kind="single_stream"),
            "system": Requirements(),
            "metrics": Judged(),
        }
        return cls(manifest.model_copy(update=alike).canonical(), store.folder, allow_code)

    def __call__(self) -> Callable[[Sequence[int]], None]:
        """Load the model and, where the model alone is timed, prepare samples for it."""
        manifest = manifest_from_record(self.manifest)
        made = assemble(manifest, ArtifactStore(self.store), allow_code=self.allow_code)
        answer = _whole(made) if manifest.timed == "pipeline" else _model_alone(made)
        size = getattr(made.predictor, "weights_bytes", None)
        return Answering(answer, {} if size is None else {"weights_bytes": size}, made)


@dataclass(frozen=True)
class Answering:
    """A system that tells facts of itself, as JSON has them, and what makes its numbers doubtful;
    both are kept with the outcome.
    """

    answer: Callable[[Sequence[int]], None]
    facts: Mapping[str, Any]
    made: Assembled

    @property
    def doubts(self) -> tuple[str, ...]:
        """Sentences, known once it has answered."""
        beyond = getattr(self.made.predictor, "undeclared", None)
        if not beyond:
            return ()
        return (
            f"{self.made.manifest.model.name} gives outputs that the manifest does not declare "
            f"({', '.join(beyond)}): they are computed within the time of a call, and neither "
            "copied out of the runtime, checked nor judged; declare them, or export the model "
            "without them",
        )

    def __call__(self, indices: Sequence[int]) -> None:
        """Answer the samples with these indices."""
        self.answer(indices)


def _whole(made: Assembled) -> Callable[[Sequence[int]], None]:
    count = len(made.samples)

    def answer(indices: Sequence[int]) -> None:
        made.answer([index % count for index in indices])

    return answer


def _model_alone(made: Assembled) -> Callable[[Sequence[int]], None]:
    batches = made.manifest.model.inputs
    whole = all(each.shape[:1] == ("batch",) for each in batches)
    take = _prepared_together(made) if whole else _prepared_alone(made)
    predict = made.predictor.predict
    sizes: set[int] = set()
    """Whose outputs were looked at: once each, which warming up does before anything is timed."""

    def answer(indices: Sequence[int]) -> None:
        found = predict(take(indices))
        if len(indices) not in sizes:
            made.processing.check(found, len(indices))
            sizes.add(len(indices))

    return answer


def _prepared_together(made: Assembled) -> Callable[[Sequence[int]], Batch]:
    """All samples as one array by input; a query copies its own out of it, into memory that the
    next query gets too. Memory that is new each time would cost its page faults: glibc maps all of
    32 MiB and more anew, which makes the batches above it look slow.
    """
    first = made.processing.batch([made.samples.row(0)])
    count = min(len(made.samples), _affordable(first))
    columns: dict[str, Any] = {
        name: np.empty((count, *array.shape[1:]), array.dtype) for name, array in first.items()
    }
    for index in range(count):
        for name, array in made.processing.batch([made.samples.row(index)]).items():
            columns[name][index] = _same_shape(name, array, first)[0]
    taken: dict[str, np.ndarray[Any, Any]] = {name: array[:0] for name, array in columns.items()}

    def take(indices: Sequence[int]) -> Batch:
        chosen = np.asarray(indices) % count
        return {name: _rows(name, array, chosen) for name, array in columns.items()}

    def _rows(name: str, array: np.ndarray[Any, Any], chosen: Any) -> np.ndarray[Any, Any]:
        size = len(chosen)
        if len(taken[name]) < size:
            taken[name] = np.empty((size, *array.shape[1:]), array.dtype)
        # With mode="raise" numpy would copy twice.
        rows = taken[name][:size]
        array.take(chosen, axis=0, out=rows, mode="clip")
        return rows

    return take


def _prepared_alone(made: Assembled) -> Callable[[Sequence[int]], Batch]:
    """A batch for each sample, of a model whose inputs have no axis for them."""
    first = made.processing.batch([made.samples.row(0)])
    count = min(len(made.samples), _affordable(first))
    batches = [made.processing.batch([made.samples.row(index)]) for index in range(count)]

    def take(indices: Sequence[int]) -> Batch:
        if len(indices) != 1:
            raise EvaluationError(
                f"{made.manifest.model.name} takes one sample a call, not {len(indices)}; its "
                "inputs' shapes have no `batch`"
            )
        return batches[indices[0] % count]

    return take


def _affordable(batch: Batch) -> int:
    return max(1, MOST_BYTES // max(1, sum(array.nbytes for array in batch.values())))


def _same_shape(name: str, array: np.ndarray[Any, Any], first: Batch) -> np.ndarray[Any, Any]:
    if array.shape != first[name].shape:
        raise EvaluationError(
            f"samples of the input {name!r} have the shapes {list(first[name].shape)} and "
            f"{list(array.shape)}; queries of several samples need one shape: add a step such as "
            "resize or pad, or time the pipeline (timed: pipeline)"
        )
    return array
