"""One layer without its weights: what it computes on which shapes, whatever it is called."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from math import prod
from typing import Any

from xsp.errors import GraphError

CONTIGUOUS, CHANNELS_LAST = "contiguous", "channels_last"

_BITS = {
    "float64": 64,
    "float32": 32,
    "float16": 16,
    "bfloat16": 16,
    "float8_e4m3fn": 8,
    "float8_e5m2": 8,
    "complex64": 64,
    "complex128": 128,
    "int64": 64,
    "int32": 32,
    "int16": 16,
    "int8": 8,
    "uint8": 8,
    "bool": 8,
}


@dataclass(frozen=True)
class TensorType:
    """Shape and data type of a tensor; data types are spelled as torch does, `float32`."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return prod(self.shape)

    @property
    def size_bytes(self) -> int:
        """Bytes of all its elements; data types that are not known count 4 bytes each."""
        return self.elements * _BITS.get(self.dtype, 32) // 8

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class Layer:
    """One operation of a model.

    `inputs` are activations, `weights` what the model holds itself (parameters, buffers and
    constants); both in the operator's order. `parameters` are what else decides how long it takes,
    such as strides and groups, as JSON-able values. `name` (the operator's name where
    the layer was read from) do not count when layers are compared.
    """

    name: str
    operator: str
    inputs: tuple[TensorType, ...] = ()
    weights: tuple[TensorType, ...] = ()
    outputs: tuple[TensorType, ...] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    layout: str = CONTIGUOUS
    source: str = ""
    owner: str = ""

    @cached_property
    def key(self) -> str:
        """What it computes, as JSON: equal for two layers iff they are the same but for names and
        weights (Benanza, section III-A: operator type, shapes and parameters).

        Outputs follow from the rest and are left out.
        """
        facts = {
            "operator": self.operator,
            "inputs": [[list(each.shape), each.dtype] for each in self.inputs],
            "weights": [[list(each.shape), each.dtype] for each in self.weights],
            "parameters": dict(sorted(self.parameters.items())),
            "layout": self.layout,
        }
        return json.dumps(facts, sort_keys=True, separators=(",", ":"))

    @cached_property
    def digest(self) -> str:
        """Twelve hexadecimal digits that stand for `key`."""
        return hashlib.sha256(self.key.encode()).hexdigest()[:12]

    @property
    def dtype(self) -> str:
        """Data type that it computes in: that of its first floating-point tensor."""
        tensors = (*self.inputs, *self.weights, *self.outputs)
        floating = (each.dtype for each in tensors if "float" in each.dtype)
        return next(floating, tensors[0].dtype if tensors else "float32")

    @property
    def traffic_bytes(self) -> int:
        """Bytes that it must read and write at least: every tensor once."""
        return sum(each.size_bytes for each in (*self.inputs, *self.weights, *self.outputs))

    def renamed(self, name: str) -> Layer:
        """The same layer under another name."""
        return replace(self, name=name)

    def with_dtype(self, dtype: str) -> Layer:
        """The same layer computing in another floating-point type."""

        def changed(tensors: tuple[TensorType, ...]) -> tuple[TensorType, ...]:
            return tuple(
                TensorType(each.shape, dtype if "float" in each.dtype else each.dtype)
                for each in tensors
            )

        return replace(
            self,
            inputs=changed(self.inputs),
            weights=changed(self.weights),
            outputs=changed(self.outputs),
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-able values."""
        return {**asdict(self), "parameters": dict(self.parameters)}

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Layer:
        """The inverse of `to_dict`. Raises GraphError if something is missing."""
        try:
            tensors = {
                part: tuple(TensorType(tuple(one["shape"]), one["dtype"]) for one in row[part])
                for part in ("inputs", "weights", "outputs")
            }
            return cls(
                name=row["name"],
                operator=row["operator"],
                parameters=dict(row["parameters"]),
                layout=row["layout"],
                source=row.get("source", ""),
                owner=row.get("owner", ""),
                **tensors,
            )
        except (KeyError, TypeError) as error:
            raise GraphError(
                f"a layer lacks {error}; give one written by Layer.to_dict()"
            ) from error

    @classmethod
    def from_key(cls, key: str) -> Layer:
        """A layer with this `key`, without name and outputs."""
        row = json.loads(key)
        tensors = {
            part: [{"shape": shape, "dtype": dtype} for shape, dtype in row[part]]
            for part in ("inputs", "weights")
        }
        return cls.from_dict({**row, **tensors, "outputs": [], "name": ""})


def frozen(value: Any) -> Any:
    """`value` as JSON keeps it: tuples as lists, nested ones too."""
    if isinstance(value, list | tuple):
        return [frozen(each) for each in value]
    return value
