"""What an evaluation is judged by beside its load: accuracy, and cost from a price.

`output` names an output of the model after its steps, or a key of what its `postprocess` returns;
`target` a column of the data set.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from xsp.evaluation.manifest.rules import Name, Part, Seconds
from xsp.evaluation.manifest.steps import CLASSES, PROBABILITIES, SCORES

_SCORED = frozenset({SCORES, PROBABILITIES})


class _Metric(Part):
    takes: ClassVar[frozenset[str]] = frozenset({SCORES, PROBABILITIES, CLASSES})
    """The kinds of output that it is defined for."""
    output: Name
    target: Name

    @property
    def label(self) -> str:
        """The name that its value has in tables."""
        return str(self.metric)  # type: ignore[attr-defined] # each kind has its own


class TopK(_Metric):
    """Share of samples whose class is among the `k` with the highest scores."""

    takes = _SCORED
    metric: Literal["top_k"]
    k: Annotated[int, Field(ge=1, le=1000)] = 1

    @property
    def label(self) -> str:
        """`top_1`, `top_5`."""
        return f"top_{self.k}"


class Exact(_Metric):
    """Share of samples whose class, or text, is the right one."""

    takes = frozenset({CLASSES})
    metric: Literal["exact"]


class F1(_Metric):
    """Harmonic mean of precision and recall, of two classes or averaged over more."""

    metric: Literal["f1"]
    average: Literal["macro", "micro", "weighted"] = "macro"


class Auroc(_Metric):
    """Area under the receiver operating characteristic of two classes."""

    takes = _SCORED
    metric: Literal["auroc"]


class MeanAveragePrecision(_Metric):
    """COCO's mAP over intersections of 0.5 to 0.95.

    The output has columns x1, y1, x2, y2, score, class; the target x1, y1, x2, y2, class; rows of
    a negative class are padding.
    """

    takes = frozenset({SCORES})
    metric: Literal["map"]


class Perplexity(_Metric):
    """Of a language model: the output has scores over the vocabulary by position, the target the
    right tokens; -100 is left out.
    """

    takes = _SCORED
    metric: Literal["perplexity"]


class CosineSimilarity(_Metric):
    """Mean cosine between the output's vectors and the target's."""

    takes = frozenset({SCORES})
    metric: Literal["cosine_similarity"]


class CharacterErrors(_Metric):
    """Edits per character of the right text."""

    takes = frozenset({CLASSES})
    metric: Literal["character_error_rate"]


AccuracyMetric: TypeAlias = Annotated[
    TopK
    | Exact
    | F1
    | Auroc
    | MeanAveragePrecision
    | Perplexity
    | CosineSimilarity
    | CharacterErrors,
    Field(discriminator="metric"),
]


class Price(Part):
    """What an hour of the machine costs."""

    per_hour: Annotated[float, Field(gt=0, le=1e9)]
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] = "USD"


class Judged(Part):
    """What is reported beside latency and throughput."""

    accuracy: tuple[AccuracyMetric, ...] = Field(default=(), max_length=32)
    batch: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        default=32, description="Samples in one call of the model while accuracy is measured."
    )
    price: Price | None = None
    time_limit_s: Seconds | None = Field(
        default=None,
        description="Making the model and judging all data must end within it; else both are "
        "ended. The scenario's time_limit_s if absent.",
    )

    @model_serializer(mode="wrap")
    def _written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A limit that was not given is left out: manifests from before there was one keep their
        identity.
        """
        content: dict[str, Any] = handler(self)
        if self.time_limit_s is None:
            del content["time_limit_s"]
        return content
