"""Metrics of accuracy on answers whose value is known by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter

from xsp.errors import EvaluationError
from xsp.evaluation.manifest.judging import AccuracyMetric
from xsp.evaluation.metrics.accuracy import Accuracy, Value, wilson


def values(predicted: Any, truth: Any, **metric: Any) -> list[Value]:
    """The metric over the samples, given in two batches."""
    given = {"output": "out", "target": "truth", **metric}
    checked: Any = TypeAdapter(AccuracyMetric).validate_python(given)
    accuracy = Accuracy([checked])
    half = len(predicted) // 2
    for part in (slice(0, half), slice(half, None)):
        rows = [{"truth": each} for each in truth[part]]
        accuracy.update({"out": predicted[part]}, rows)
    return accuracy.values()


SCORES = np.array([[0.1, 0.7, 0.2], [0.5, 0.3, 0.2], [0.2, 0.3, 0.5], [0.4, 0.35, 0.25]])
LOG2 = np.log(np.array([[[0.5, 0.5], [0.25, 0.75]], [[0.5, 0.5], [0.5, 0.5]]]))
BOX = [0.0, 0.0, 10.0, 10.0]


@pytest.mark.parametrize(
    ("metric", "predicted", "truth", "expected"),
    [
        ({"metric": "top_k", "k": 1}, SCORES, [1, 0, 0, 1], 0.5),
        ({"metric": "top_k", "k": 2}, SCORES, [1, 0, 0, 1], 0.75),
        ({"metric": "exact"}, np.array([1, 2, 3, 4]), [1, 2, 0, 4], 0.75),
        ({"metric": "exact"}, ["a", "b", "c", "d"], ["a", "x", "c", "y"], 0.5),
        # Precision 2/3, recall 1: 0.8.
        ({"metric": "f1"}, np.array([0.9, 0.5, 0.7, 0.1]), [1, 1, 0, 0], 0.8),
        ({"metric": "f1", "average": "micro"}, SCORES, [1, 0, 0, 1], 0.5),
        # Of the four pairs one is in the wrong order.
        ({"metric": "auroc"}, np.array([0.9, 0.2, 0.3, 0.1]), [1, 1, 0, 0], 0.75),
        ({"metric": "cosine_similarity"}, np.eye(2), [[1.0, 0.0], [1.0, 0.0]], 0.5),
        # Probabilities 1/2 and 3/4 of the first text; the second is left out but for one 1/2.
        (
            {"metric": "perplexity"},
            LOG2,
            [[0, 1], [1, -100]],
            math.exp(-(2 * math.log(0.5) + math.log(0.75)) / 3),
        ),
        ({"metric": "character_error_rate"}, ["kernel", "lay"], ["kernel", "layer"], 2 / 11),
        # Boxes that are right; padding has the class -1.
        (
            {"metric": "map"},
            np.array([[[*BOX, 0.9, 1], [*BOX, 0.8, -1]]] * 2),
            [[[*BOX, 1]], [[*BOX, 1]]],
            1.0,
        ),
        # The box covers 80 % of the right one: found at the thresholds 0.5 to 0.8 of ten.
        ({"metric": "map"}, np.array([[[0, 0, 10, 8.01, 0.9, 1]]] * 2), [[[*BOX, 1]]] * 2, 0.7),
    ],
)
def test_a_metric_has_its_known_value(
    metric: dict[str, Any], predicted: Any, truth: Any, expected: float
) -> None:
    """Batches make no difference; shares of samples have an interval around the value."""
    (found,) = values(predicted, truth, **metric)
    assert found.value == pytest.approx(expected, abs=1e-6)
    if metric["metric"] in {"top_k", "exact"}:
        assert found.low is not None
        assert found.high is not None
        assert found.low < found.value < found.high


def test_the_interval_of_a_share_is_wilsons() -> None:
    """9 of 10: 0.596 to 0.982; a share of 1 still has a lower bound."""
    assert wilson(0.9, 10) == pytest.approx((0.5958, 0.9821), abs=1e-4)
    low, high = wilson(1.0, 22)
    assert low == pytest.approx(0.8513, abs=1e-4)
    assert high == 1.0


def test_what_a_metric_is_not_defined_for_is_told() -> None:
    """A missing output, another length, and classes that are none are one sentence each."""
    given = {"metric": "exact", "output": "out", "target": "truth"}
    metric: Any = TypeAdapter(AccuracyMetric).validate_python(given)
    accuracy = Accuracy([metric])
    with pytest.raises(EvaluationError, match="has 2 predictions for 1 samples"):
        accuracy.update({"out": [1, 2]}, [{"truth": 1}])
    with pytest.raises(EvaluationError, match=r"returned no 'out'.*it returned other"):
        accuracy.update({"other": [1]}, [{"truth": 1}])
    with pytest.raises(EvaluationError, match="targets must be classes from 0 to 2"):
        values(SCORES, [7, 0, 0, 1], metric="top_k", k=1)


def test_what_is_not_a_number_is_unknown() -> None:
    """Where a prediction has NaN the metric is unknown with the reason, and the others are known;
    a target with a fraction is no class.
    """
    scores = np.array([[0.9, 0.1], [np.nan, 0.1]])
    given = [
        {"metric": "top_k", "output": "a", "target": "t"},
        {"metric": "exact", "output": "b", "target": "t"},
    ]
    accuracy = Accuracy([TypeAdapter(AccuracyMetric).validate_python(each) for each in given])
    accuracy.update({"a": scores, "b": np.array([0, 1])}, [{"t": 0}, {"t": 1}])
    unknown, known = accuracy.values()
    assert math.isnan(unknown.value)
    assert unknown.reason == "'a' has NaN in 1 of 2 samples"
    assert known.value == 1.0
    for metric in ("top_k", "f1", "auroc"):
        asked = {"metric": metric, "output": "a", "target": "t"}
        accuracy = Accuracy([TypeAdapter(AccuracyMetric).validate_python(asked)])
        accuracy.update({"a": np.array([[0.9, 0.1], [0.2, 0.8]])}, [{"t": 0.5}, {"t": 1.0}])
        with pytest.raises(EvaluationError, match="targets must be whole numbers"):
            accuracy.values()
