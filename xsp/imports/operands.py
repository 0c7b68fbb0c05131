"""Shapes and types of an operator's inputs, as traces write them."""

from __future__ import annotations

from typing import Any

_NO_TENSOR = ("", "Scalar", "ScalarList")
_LIST = "TensorList"
_TYPES = {
    "float": "float32",
    "double": "float64",
    "c10::Half": "float16",
    "c10::BFloat16": "bfloat16",
    "c10::Float8_e4m3fn": "float8_e4m3fn",
    "c10::Float8_e5m2": "float8_e5m2",
    "c10::complex<float>": "complex64",
    "c10::complex<double>": "complex128",
    "long int": "int64",
    "long": "int64",
    "int": "int32",
    "short int": "int16",
    "short": "int16",
    "signed char": "int8",
    "unsigned char": "uint8",
    "bool": "bool",
}
"""Names of C++ types, which traces of torch.profiler give, as torch calls them."""

Shape = list[int]


def operands(dims: Any, types: Any) -> tuple[list[Shape], list[str]]:
    """Shapes of the tensors among an operator's inputs, and their types, "" where not known.

    `dims` has an entry for each input: a tensor's sizes, a list of these for a list of tensors, and
    an empty list for what is not a tensor, or a tensor without dimensions, which only `types`
    tells.
    """
    entries = dims if isinstance(dims, list) else []
    named = types if isinstance(types, list) else []
    shapes: list[Shape] = []
    kinds: list[str] = []
    for place, entry in enumerate(entries):
        kind = str(named[place]) if place < len(named) else ""
        found = _tensors(entry, is_tensor=kind not in (*_NO_TENSOR, _LIST))
        shapes += found
        kinds += [_TYPES.get(kind, "" if kind == _LIST else kind)] * len(found)
    return shapes, kinds


def _tensors(entry: Any, *, is_tensor: bool) -> list[Shape]:
    """Sizes of the tensors of one input, however deep its lists are."""
    if not isinstance(entry, list):
        return []
    if not entry:
        return [[]] if is_tensor else []
    if all(type(size) is int and size >= 0 for size in entry):
        return [entry]
    return [shape for inner in entry for shape in _tensors(inner, is_tensor=True)]
