"""What a model comes from: a file of a format that holds no code, or Python that makes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, StringConstraints

from xsp.evaluation.manifest.artifact import Artifact, RelativePath
from xsp.evaluation.manifest.rules import Name, Part, Scalar, Sha256


class Code(Part):
    """A Python function: `file.py:name` beside the manifest or `package.module:name`. It is called
    only where code is allowed.
    """

    function: Annotated[str, StringConstraints(pattern=r"^[^\s:]+:[A-Za-z_]\w*$", max_length=500)]
    sha256: Sha256 | None = Field(
        default=None, description="Of the file; recorded when it is left out."
    )
    arguments: Mapping[Name, Scalar] = Field(default_factory=dict)

    @property
    def file(self) -> str | None:
        """The file, relative to the manifest; None for a function of an installed package."""
        place = self.function.rpartition(":")[0]
        return place if place.endswith(".py") else None


class ModelFile(Part):
    """A model in a file, with the further files that lie beside it, such as `.onnx.data`."""

    kind: Literal["onnx", "torchscript", "exported"]
    artifact: Artifact
    beside: Mapping[RelativePath, Artifact] = Field(default_factory=dict)


class PythonModel(Part):
    """A function that makes an `nn.Module`, and its weights: a state dict read without pickle's
    code (`weights_only=True`).
    """

    kind: Literal["python"]
    make: Code
    weights: Artifact | None = None


Source: TypeAlias = Annotated[ModelFile | PythonModel, Field(discriminator="kind")]


class Framework(Part):
    """What the model was made with, such as torch `>=2.5,<3` (PEP 440)."""

    name: Name
    version: Annotated[str, StringConstraints(max_length=200, pattern=r"^[^\x00-\x1f]*$")] = Field(
        default="", description="A constraint; any version where it is left out."
    )
