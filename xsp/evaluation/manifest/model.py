"""The whole manifest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from xsp.evaluation.manifest.dataset import Dataset
from xsp.evaluation.manifest.judging import Judged
from xsp.evaluation.manifest.rules import ElementType, Name, Part, Scalar
from xsp.evaluation.manifest.source import Code, Framework, Source
from xsp.evaluation.manifest.steps import InputStep, OutputStep
from xsp.evaluation.scenarios.settings import Scenario

Size = Annotated[int, Field(ge=1, le=1_000_000_000)]


class Tensor(Part):
    """An input or output. `batch` is the number of samples, which the first size has to be where
    the model takes several at once; `any` is another size that varies.
    """

    name: Name
    dtype: ElementType
    shape: tuple[Size | Literal["batch", "any"], ...] = Field(max_length=16)


class Input(Tensor):
    """What a model takes: a column of the data set, after these steps."""

    column: Name | None = Field(default=None, description="The input's name by default.")
    column_kind: Literal["encoded image", "image", "array"] = "array"
    steps: tuple[InputStep, ...] = Field(default=(), max_length=64)


class Output(Tensor):
    """What a model gives, and the steps that follow."""

    steps: tuple[OutputStep, ...] = Field(default=(), max_length=64)
    labels: tuple[Name, ...] | None = Field(default=None, description="Names of the classes.")


class Model(Part):
    """What is evaluated.

    `preprocess` and `postprocess` are Python instead of steps: the first gets a list of rows of the
    data set and returns arrays by input, the second gets arrays by output and returns arrays or
    lists by name, the first axis of all being the samples.
    """

    name: Name
    version: Name
    task: Name
    framework: Framework
    source: Source
    inputs: tuple[Input, ...] = Field(min_length=1, max_length=64)
    outputs: tuple[Output, ...] = Field(min_length=1, max_length=64)
    preprocess: Code | None = None
    postprocess: Code | None = None


class Runtime(Part):
    """What runs it: the name of a predictor, a device, and options of the runtime."""

    predictor: Name
    device: Annotated[str, Field(pattern=r"^(cpu|cuda(:\d+)?)$")] = "cpu"
    options: Mapping[Name, Scalar] = Field(default_factory=dict)


class Requirements(Part):
    """What a machine must have to run it."""

    memory_gib: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    gpus: Annotated[int, Field(ge=0, le=1024)] = 0
    labels: Mapping[Name, Name] = Field(default_factory=dict)


class Manifest(Part):
    """An evaluation: model, runtime, machine, load, data, and what it is judged by."""

    xsp: Literal[1] = Field(description="Version of this format.")
    name: Name
    description: str = Field(default="", max_length=10_000)
    model: Model
    runtime: Runtime
    system: Requirements = Requirements()
    scenario: Scenario
    timed: Literal["model", "pipeline"] = Field(
        default="model",
        description="What a query takes: the model alone, or the steps before and after it too.",
    )
    dataset: Dataset
    metrics: Judged = Judged()

    @field_validator("xsp", mode="before")
    @classmethod
    def _number(cls, version: object) -> object:
        # A literal takes what is equal to it: true and 1.0 too.
        if type(version) is not int:
            raise ValueError(f"must be the whole number 1, not {json.dumps(version, default=str)}")
        return version

    def canonical(self) -> str:
        """The manifest as JSON with sorted keys and nothing left out: equal manifests are equal
        text, however they were written.
        """
        content: dict[str, Any] = self.model_dump(mode="json")
        return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)

    @property
    def identity(self) -> str:
        """sha256 of the canonical JSON, 64 hexadecimal digits."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()
