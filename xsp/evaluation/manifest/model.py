"""The whole manifest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from xsp.evaluation.manifest.dataset import Dataset
from xsp.evaluation.manifest.rules import Name, Part
from xsp.evaluation.manifest.source import Code, Framework, Scalar, Source
from xsp.evaluation.scenarios.settings import Scenario

Size = Annotated[int, Field(ge=1, le=1_000_000_000)]


class TensorOf(Part):
    """An input or output of the model. The first size is `batch` where the model takes several
    samples at once.
    """

    name: Name
    dtype: Literal[
        "float32", "float16", "float64", "int8", "uint8", "int16", "int32", "int64", "bool"
    ]
    shape: tuple[Size | Literal["batch", "any"], ...] = Field(min_length=1, max_length=16)


class Model(Part):
    """What is evaluated."""

    name: Name
    version: Name
    task: Name
    framework: Framework
    source: Source
    inputs: tuple[TensorOf, ...] = Field(min_length=1, max_length=64)
    outputs: tuple[TensorOf, ...] = Field(min_length=1, max_length=64)
    preprocess: Code | None = None
    postprocess: Code | None = None


class Runtime(Part):
    """What runs it: the name of a predictor, a device, and options of the runtime."""

    predictor: Name
    device: Annotated[str, Field(pattern=r"^(cpu|cuda(:\d+)?)$")] = "cpu"
    options: Mapping[str, Scalar] = Field(default_factory=dict)


class Requirements(Part):
    """What a machine must have to run it."""

    memory_gib: Annotated[float, Field(ge=0, le=1e6, strict=False)] = 0.0
    gpus: Annotated[int, Field(ge=0, le=1024)] = 0
    labels: Mapping[Name, Name] = Field(default_factory=dict)


class Manifest(Part):
    """An evaluation: model, runtime, machine, load, data, and what it is judged by."""

    xsp: Literal[1] = Field(description="Version of this format.")
    name: Name
    model: Model
    runtime: Runtime
    system: Requirements = Requirements()
    scenario: Scenario
    dataset: Dataset

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
