"""The whole data set once through the pipeline: reading, steps, model, steps, what follows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from xsp.evaluation.pipeline.assembling import Assembled
from xsp.evaluation.pipeline.processing import Predictions, Row
from xsp.evaluation.pipeline.stream import Stage, StageSpan, stream
from xsp.evaluation.predictors.predictor import Outputs

READ, PREPARE, PREDICT, FINISH, JUDGE = "read", "preprocess", "predict", "postprocess", "judge"
"""The stages, each a span."""

Judge = Callable[[Predictions, Sequence[Row]], None]


def pass_through(
    made: Assembled,
    batch: int,
    judge: Judge,
    *,
    most: int | None = None,
    record: Callable[[StageSpan], None] | None = None,
) -> int:
    """Every sample once, `batch` in a call; returns how many. Stages work at the same time, with a
    few batches between them. The model runs in one thread, which is not the caller's.

    Args:
        made: the pipeline.
        batch: samples in one call; a model without an axis for them gets one.
        judge: is handed the predictions of each batch with its rows, in order.
        most: samples at most.
        record: called with each stage's span for each batch.

    """
    size = batch if made.several else 1
    stages = [
        Stage(READ, lambda indices: [made.samples.row(index) for index in indices]),
        Stage(PREPARE, lambda rows: (rows, made.processing.batch(rows))),
        Stage(PREDICT, lambda given: (given[0], made.predict(given[1]))),
        Stage(FINISH, lambda given: (given[0], _finished(made, *given))),
        Stage(JUDGE, lambda given: _judged(judge, *given)),
    ]
    total = min(len(made.samples), most or len(made.samples))
    return sum(stream(_indices(total, size), stages, record=record))


def _indices(total: int, size: int) -> Iterator[range]:
    for start in range(0, total, size):
        yield range(start, min(start + size, total))


def _finished(made: Assembled, rows: Sequence[Row], outputs: Outputs) -> Predictions:
    return made.processing.predictions(outputs, len(rows))


def _judged(judge: Judge, rows: Sequence[Row], predictions: Any) -> int:
    judge(predictions, rows)
    return len(rows)
