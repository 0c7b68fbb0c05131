"""Names of element types, as torch, CUDA and cuDNN write them: their size, and the precision of
arithmetic on them.
"""

from __future__ import annotations

import re

_SIZES = (
    (re.compile(r"complex128|C_64F"), 16.0),
    (re.compile(r"complex64|C_32F"), 8.0),
    (re.compile(r"64|DOUBLE"), 8.0),
    (re.compile(r"float8|8F|FP8|INT8|[iu]nt8|_8[IU]|bool|BOOLEAN", re.IGNORECASE), 1.0),
    (re.compile(r"16|HALF"), 2.0),
    (re.compile(r"32|FLOAT"), 4.0),
)

_PRECISIONS = (
    (re.compile(r"bfloat16|16BF|BFLOAT16"), "bf16"),
    (re.compile(r"float8|8F_|FP8"), "fp8"),
    (re.compile(r"float16|16F|HALF"), "fp16"),
    (re.compile(r"float32|complex64|32F|FLOAT$"), "fp32"),
    (re.compile(r"float64|complex128|64F|DOUBLE"), "fp64"),
    (re.compile(r"[iu]nt8|_8[IU]|INT8", re.IGNORECASE), "int8"),
)


def itemsize(name: str | None) -> float:
    """Bytes of an element of this type (`float16`, `CUDA_R_16F`, `CUDNN_DATA_HALF`); NaN where it
    is not known.
    """
    return next((size for pattern, size in _SIZES if name and pattern.search(name)), float("nan"))


def precision_of(name: str | None) -> str:
    """Precision in which elements of this type are multiplied (`fp16` for `CUDA_R_16F`); "" where
    it is not known.

    float32 gives `fp32`: whether TF32 may stand in is not a question of the type.
    """
    return next(
        (precision for pattern, precision in _PRECISIONS if name and pattern.search(name)), ""
    )
