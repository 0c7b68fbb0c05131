"""How right the answers are, by torchmetrics and, for mAP, by COCO's own program."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import stats

from xsp.errors import EvaluationError
from xsp.evaluation.extra import needed
from xsp.evaluation.manifest import judging


@dataclass(frozen=True)
class Value:
    """A metric's value; where it is a share of samples, with its 95 % interval (Wilson). NaN where
    it is not known, and `reason` says why.
    """

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    reason: str = ""


class Accuracy:
    """Collects predictions and targets, and computes every metric at the end."""

    def __init__(self, metrics: Sequence[judging.AccuracyMetric]) -> None:
        self._metrics = metrics
        self._predicted: list[list[Any]] = [[] for _ in metrics]
        self._targets: list[list[Any]] = [[] for _ in metrics]

    def update(self, predictions: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
        """One batch. Raises EvaluationError where an output is not there or has another length."""
        for place, metric in enumerate(self._metrics):
            if metric.output not in predictions:
                raise EvaluationError(
                    f"postprocess returned no {metric.output!r}, of which {metric.label} is asked; "
                    f"it returned {', '.join(predictions)}"
                )
            found = predictions[metric.output]
            if len(found) != len(rows):
                raise EvaluationError(
                    f"{metric.output!r} has {len(found)} predictions for {len(rows)} samples; the "
                    "first axis is the samples"
                )
            self._predicted[place] += list(found)
            self._targets[place] += [row[metric.target] for row in rows]

    def values(self) -> list[Value]:
        """Each metric over all samples; named `top_1`, and `top_1 of logits` where it is asked of
        several outputs. Raises EvaluationError for values that a metric is not defined for.
        """
        if not self._metrics:
            return []
        with needed("accuracy"):
            import torchmetrics  # noqa: F401 - its absence is told before anything is computed
        labels = [metric.label for metric in self._metrics]
        return [
            self._value(
                place,
                metric.label
                if labels.count(metric.label) == 1
                else f"{metric.label} of {metric.output}",
            )
            for place, metric in enumerate(self._metrics)
        ]

    def _value(self, place: int, name: str) -> Value:
        metric = self._metrics[place]
        predicted, targets = self._predicted[place], self._targets[place]
        without = sum(map(_has_nan, predicted))
        if without:
            reason = f"{metric.output!r} has NaN in {without} of {len(predicted)} samples"
            return Value(name, math.nan, reason=reason)
        try:
            value = float(_COMPUTED[type(metric)](metric, predicted, targets))
        except EvaluationError:
            raise
        except Exception as error:  # torchmetrics raises whatever its checks find
            said = str(error).strip().partition("\n")[0]
            raise EvaluationError(
                f"{name} cannot be computed from {metric.output!r} and {metric.target!r} ({said})"
            ) from error
        if isinstance(metric, (judging.TopK, judging.Exact)):
            return Value(name, value, *wilson(value, len(targets)))
        return Value(name, value)


def wilson(share: float, count: int) -> tuple[float, float]:
    """95 % interval of a share of `count` independent samples (E. B. Wilson, 1927)."""
    z = float(stats.norm.ppf(0.975))
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    inside = share * (1 - share) / count + z * z / (4 * count * count)
    half = z / (1 + z * z / count) * math.sqrt(inside)
    return max(0.0, centre - half), min(1.0, centre + half)


_LIKELY = 0.5
"""A probability from which on the second of two classes is meant."""


def _tensor(values: Sequence[Any]) -> torch.Tensor:
    return torch.as_tensor(np.stack([np.asarray(each) for each in values]))


def _has_nan(value: Any) -> bool:
    array = np.asarray(value)
    return array.dtype.kind == "f" and bool(np.isnan(array).any())


def _classes(targets: Sequence[Any]) -> torch.Tensor:
    """Targets as whole numbers. Raises ValueError for others: a cast would cut their fractions."""
    found = _tensor(targets)
    if found.is_floating_point() and not torch.equal(found, found.round()):
        raise ValueError("targets must be whole numbers")
    return found.long()


def _top_k(metric: judging.TopK, predicted: list[Any], targets: list[Any]) -> Any:
    from torchmetrics.functional.classification import multiclass_accuracy

    scores, right = _tensor(predicted).float(), _classes(targets)
    if int(right.min()) < 0 or int(right.max()) >= scores.shape[-1]:
        raise ValueError(f"targets must be classes from 0 to {scores.shape[-1] - 1}")
    return multiclass_accuracy(scores, right, scores.shape[-1], average="micro", top_k=metric.k)


def _exact(_metric: judging.Exact, predicted: list[Any], targets: list[Any]) -> Any:
    from torchmetrics import MeanMetric

    mean = MeanMetric()
    pairs = zip(predicted, targets, strict=True)
    mean.update(torch.tensor([float(_plain(one) == _plain(other)) for one, other in pairs]))
    return mean.compute()


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value


def _f1(metric: judging.F1, predicted: list[Any], targets: list[Any]) -> Any:
    from torchmetrics.functional.classification import binary_f1_score, multiclass_f1_score

    found, right = _tensor(predicted), _classes(targets)
    if found.ndim > right.ndim:
        classes = found.argmax(dim=-1)
    else:
        classes = found >= _LIKELY if found.is_floating_point() else found
    several = int(max(int(classes.max()), int(right.max()))) + 1
    if several <= 2:
        return binary_f1_score(classes.long(), right)
    return multiclass_f1_score(classes.long(), right, several, average=metric.average)


def _auroc(_metric: judging.Auroc, predicted: list[Any], targets: list[Any]) -> Any:
    from torchmetrics.functional.classification import binary_auroc

    return binary_auroc(_tensor(predicted).float(), _classes(targets))


def _map(_metric: judging.MeanAveragePrecision, predicted: list[Any], targets: list[Any]) -> Any:
    """By COCO's own program: torchmetrics wraps it, but needs torchvision for that."""
    with needed("mAP"):
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    truth = [_annotation(*each) for each in _boxes(targets, 5)]
    found = [_annotation(*each) for each in _boxes(predicted, 6)]
    categories = {each["category_id"] for each in truth}
    if not found or not categories:
        return 0.0 if categories else float("nan")
    # It reports to standard output.
    with redirect_stdout(io.StringIO()):
        right = COCO()
        right.dataset = {
            "images": [{"id": image} for image in range(len(targets))],
            "annotations": [{**each, "id": place + 1} for place, each in enumerate(truth)],
            "categories": [{"id": category} for category in sorted(categories)],
        }
        right.createIndex()
        evaluation = COCOeval(right, right.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[0]


def _boxes(images: list[Any], columns: int) -> list[tuple[int, list[float]]]:
    """Image and row of every box that is not padding."""
    return [
        (image, row)
        for image, rows in enumerate(images)
        for row in np.asarray(rows, np.float64).reshape(-1, columns).tolist()
        if row[-1] >= 0
    ]


def _annotation(image: int, row: list[float]) -> dict[str, Any]:
    x1, y1, x2, y2, *score, category = row
    width, height = x2 - x1, y2 - y1
    return {
        "image_id": image,
        "category_id": int(category),
        "bbox": [x1, y1, width, height],
        "area": width * height,
        "iscrowd": 0,
        **({"score": score[0]} if score else {}),
    }


def _perplexity(_metric: judging.Perplexity, predicted: list[Any], targets: list[Any]) -> Any:
    from torchmetrics.text import Perplexity

    computed = Perplexity(ignore_index=-100)
    for found, right in zip(predicted, targets, strict=True):
        computed.update(_tensor([found]).float(), _classes([right]))
    return computed.compute()


def _cosine(_metric: judging.CosineSimilarity, predicted: list[Any], targets: list[Any]) -> Any:
    from torchmetrics.functional.regression import cosine_similarity

    return cosine_similarity(_tensor(predicted).float(), _tensor(targets).float(), reduction="mean")


def _characters(_metric: judging.CharacterErrors, predicted: list[Any], targets: list[Any]) -> Any:
    from torchmetrics.functional.text import char_error_rate

    return char_error_rate(
        [str(_plain(each)) for each in predicted], [str(each) for each in targets]
    )


_COMPUTED: dict[type[Any], Callable[[Any, list[Any], list[Any]], Any]] = {
    judging.TopK: _top_k,
    judging.Exact: _exact,
    judging.F1: _f1,
    judging.Auroc: _auroc,
    judging.MeanAveragePrecision: _map,
    judging.Perplexity: _perplexity,
    judging.CosineSimilarity: _cosine,
    judging.CharacterErrors: _characters,
}
