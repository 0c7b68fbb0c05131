"""Files that a manifest names: where one is, and the sha256 that it must have."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field, StringConstraints

from xsp.evaluation.manifest.rules import Name, Part, Sha256

RelativePath = Annotated[
    str,
    StringConstraints(min_length=1, max_length=500, pattern=r"^[^\x00-\x1f\\]+$"),
]
"""A path with `/`; whether it stays inside its folder is checked when it is resolved."""


class _Artifact(Part):
    sha256: Sha256
    member: RelativePath | None = Field(
        default=None, description="The file inside it, if it is a .zip or .tar archive."
    )


class File(_Artifact):
    """A file beside the manifest, or in a folder below it."""

    kind: Literal["file"]
    path: RelativePath


class Packaged(_Artifact):
    """A file that an installed Python package has; none of the package's code runs."""

    kind: Literal["package"]
    package: Name = Field(description="Name of the distribution, such as `silero-vad`.")
    version: Name
    path: RelativePath = Field(description="As in the distribution's list of files.")


class Url(_Artifact):
    """A file on a server; fetched only when that is allowed, and once."""

    kind: Literal["url"]
    url: Annotated[str, StringConstraints(pattern=r"^https://[^\s]+$", max_length=2000)]


Artifact: TypeAlias = Annotated[File | Packaged | Url, Field(discriminator="kind")]
