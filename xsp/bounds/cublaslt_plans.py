"""Every algorithm that cuBLASLt offers for a matrix product, through nvmath-python."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from xsp.bounds.torch_calls import Call, operands, refused
from xsp.graphs.layer import Layer

_TYPES = frozenset({"float64", "float32", "float16", "bfloat16"})
"""Products in 8 bits need scales, which PyTorch gives."""
LIMIT = 64
"""Algorithms asked for where there is no other limit."""


def product_plans(
    layer: Layer, precision: str, most: int | None = None
) -> list[tuple[str, Callable[[], Call]]]:
    """A name and a preparation for each algorithm, at most `most`, in the order in which cuBLASLt
    expects them to be fast; empty without the package. Where it refuses the product, the only
    preparation raises its reason.
    """
    nvmath = _package()
    if most == 0 or nvmath is None or layer.dtype not in _TYPES:
        return []
    if layer.dtype == "float32" and precision not in {"fp32", "tf32"}:
        return []
    try:
        problem = _Problem(nvmath, layer, precision, most or LIMIT)
    except Exception as error:  # the library refuses; the reason is kept as this entry's failure
        return [("cuBLASLt", functools.partial(refused, error))]
    return [
        (f"cuBLASLt {number}: {name}", functools.partial(problem.prepared, number))
        for number, name in enumerate(problem.names)
    ]


@functools.cache
def _package() -> Any:
    try:
        import nvmath
        import nvmath.linalg.advanced
    except ImportError:
        return None
    return nvmath


class _Problem:
    """A product with its algorithms, which share tensors."""

    def __init__(self, nvmath: Any, layer: Layer, precision: str, most: int) -> None:
        advanced = nvmath.linalg.advanced
        inputs, weights = operands(layer, "cuda")
        left = inputs[0]
        right = weights[0].t() if weights else inputs[1]
        options = {}
        if layer.dtype == "float32":
            kinds = nvmath.linalg.ComputeType
            options["compute_type"] = (
                kinds.COMPUTE_32F_FAST_TF32 if precision == "tf32" else kinds.COMPUTE_32F
            )
        epilog, bias = None, {}
        if len(weights) > 1:
            follows = "_".join([*layer.parameters.get("epilogue", []), "bias"]).upper()
            epilog = getattr(advanced.MatmulEpilog, follows)
            bias = {"bias": weights[1].reshape(-1, 1)}
            # cuBLASLt adds a bias to rows: the transposed product has the columns there.
            left, right = weights[0], left.t()
        elif layer.parameters.get("epilogue"):
            (name,) = layer.parameters["epilogue"]
            epilog = getattr(advanced.MatmulEpilog, name.upper())
        self._matmul = advanced.Matmul(left, right, options=options or None)
        self.algorithms = self._matmul.plan(
            preferences=advanced.MatmulPlanPreferences(limit=most),
            epilog=epilog,
            epilog_inputs=bias or None,
        )
        self.names = [str(getattr(each, "algorithm_id", "")) for each in self.algorithms]

    def prepared(self, number: int) -> Call:
        """The execution of one algorithm."""
        algorithm = self.algorithms[number]
        return lambda: self._matmul.execute(algorithm=algorithm)
