"""Built-in steps before and after a model. What each computes is in `pipeline/`.

A step has a `needs` and a `gives`: the kinds of value between which it leads. Their order in a
manifest is right if each finds what it needs.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, TypeAlias

from pydantic import Field

from xsp.evaluation.manifest.rules import ElementType, Part

FILE, IMAGE, ARRAY = "an encoded image", "an image", "an array"
SCORES, PROBABILITIES, CLASSES = "scores", "probabilities", "classes"

Pixels = Annotated[int, Field(ge=1, le=65536)]
Axis = Annotated[int, Field(ge=0, le=15)]


class Step(Part):
    """One of the steps; `step` names it."""

    needs: ClassVar[frozenset[str]]
    gives: ClassVar[str | None] = None
    """None where it gives what it was given."""

    @property
    def label(self) -> str:
        """Its name in a manifest."""
        return str(self.step)  # type: ignore[attr-defined] # each kind has its own


class Decode(Step):
    """Bytes of a PNG, JPEG or other image to uint8 of height, width and channels (RGB or gray)."""

    needs = frozenset({FILE})
    gives = IMAGE
    step: Literal["decode"]
    colors: Literal["rgb", "gray"] = "rgb"


class Resize(Step):
    """An image of height, width and channels to another size; antialiased where it shrinks.

    `fit: shorter` keeps the ratio of the sides, and makes the shorter one fit.
    """

    needs = frozenset({IMAGE})
    step: Literal["resize"]
    height: Pixels
    width: Pixels
    fit: Literal["stretch", "shorter"] = "stretch"
    interpolation: Literal["bilinear", "bicubic", "nearest"] = "bilinear"


class Crop(Step):
    """The middle of an image."""

    needs = frozenset({IMAGE})
    step: Literal["crop"]
    height: Pixels
    width: Pixels


class Scale(Step):
    """Times `factor`, plus `offset`, in float32."""

    needs = frozenset({IMAGE, ARRAY})
    step: Literal["scale"]
    factor: float = 1.0
    offset: float = 0.0


class Normalize(Step):
    """Minus `mean`, divided by `std`, in float32: one number each, or one for each channel (the
    last axis).
    """

    needs = frozenset({IMAGE, ARRAY})
    step: Literal["normalize"]
    mean: tuple[float, ...] = Field(min_length=1, max_length=4096)
    std: tuple[Annotated[float, Field(gt=0)], ...] = Field(min_length=1, max_length=4096)


class Transpose(Step):
    """Axes in another order, such as `[2, 0, 1]` for channels first."""

    needs = frozenset({IMAGE, ARRAY})
    gives = ARRAY
    step: Literal["transpose"]
    axes: tuple[Axis, ...] = Field(min_length=1, max_length=16)


class Reshape(Step):
    """The same elements in another shape; one size can be -1."""

    needs = frozenset({IMAGE, ARRAY})
    gives = ARRAY
    step: Literal["reshape"]
    shape: tuple[Annotated[int, Field(ge=-1, le=1_000_000_000)], ...] = Field(
        min_length=1, max_length=16
    )


class Pad(Step):
    """The first axis cut or filled with `value` to `length`."""

    needs = frozenset({ARRAY})
    step: Literal["pad"]
    length: Annotated[int, Field(ge=1, le=100_000_000)]
    value: float = 0.0


class Cast(Step):
    """Another element type."""

    needs = frozenset({IMAGE, ARRAY})
    step: Literal["cast"]
    dtype: ElementType


class Softmax(Step):
    """Scores to probabilities, over the last axis."""

    needs = frozenset({SCORES})
    gives = PROBABILITIES
    step: Literal["softmax"]


class Sigmoid(Step):
    """Scores to probabilities, each on its own."""

    needs = frozenset({SCORES})
    gives = PROBABILITIES
    step: Literal["sigmoid"]


class Unit(Step):
    """Vectors of length 1, over the last axis."""

    needs = frozenset({SCORES})
    step: Literal["unit"]


class ArgMax(Step):
    """The class with the highest score, over the last axis; the lowest of equal ones."""

    needs = frozenset({SCORES, PROBABILITIES})
    gives = CLASSES
    step: Literal["argmax"]


class Threshold(Step):
    """1 where the value is at least `at`, else 0."""

    needs = frozenset({SCORES, PROBABILITIES})
    gives = CLASSES
    step: Literal["threshold"]
    at: float


InputStep: TypeAlias = Annotated[
    Decode | Resize | Crop | Scale | Normalize | Transpose | Reshape | Pad | Cast,
    Field(discriminator="step"),
]
OutputStep: TypeAlias = Annotated[
    Softmax | Sigmoid | Unit | ArgMax | Threshold, Field(discriminator="step")
]
