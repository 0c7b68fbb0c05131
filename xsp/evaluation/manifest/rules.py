"""What all parts of a manifest have in common: strict types, no unknown keys."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, StringConstraints


class Part(BaseModel):
    """A part of a manifest: unknown keys are refused and no value is converted to another type."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


Name = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f]+$")]
"""Any text of one line."""
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
"""64 lower-case hexadecimal digits."""
Count = Annotated[int, Field(ge=1, le=1_000_000_000)]
"""A whole number from 1 on."""
Seconds = Annotated[float, Field(gt=0, le=1e9)]
"""More than nothing; a whole number is read as one too."""
Scalar: TypeAlias = str | int | float | bool | None
"""An argument or option."""
ElementType: TypeAlias = Literal[
    "float32", "float16", "float64", "int8", "uint8", "int16", "int32", "int64", "bool"
]
