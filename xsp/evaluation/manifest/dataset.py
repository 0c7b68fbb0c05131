"""Where samples come from. A sample is a row over named columns."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from xsp.evaluation.manifest.artifact import Artifact
from xsp.evaluation.manifest.rules import Count, Part
from xsp.evaluation.manifest.source import Code


class Random(Part):
    """Seeded values of each input's shape and type: for latency, never for accuracy."""

    kind: Literal["random"]
    samples: Count = 64
    seed: Annotated[int, Field(ge=0)] = 0
    low: float = 0.0
    high: float = 1.0


class Arrays(Part):
    """A `.npz` file, one array a column; pickled arrays are refused."""

    kind: Literal["arrays"]
    artifact: Artifact
    samples: Count | None = Field(default=None, description="The first so many; all by default.")


class Generated(Part):
    """A function that returns a mapping from column to a list or array, all of one length."""

    kind: Literal["python"]
    make: Code
    samples: Count | None = None


Dataset: TypeAlias = Annotated[Random | Arrays | Generated, Field(discriminator="kind")]
