"""What is recorded of a layer that multiplies, with its tensors found by role and not by place."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

Shape = Sequence[int]
Shapes = Sequence[Shape]


class UnknownWorkError(Exception):
    """What is recorded of a layer does not tell its work; never leaves `product_flops`."""


@dataclass(frozen=True)
class Operands:
    """A layer's type, the shapes and types of its tensors, and how it was called.

    `names` are the arguments that the inputs were passed as, in their order; None in captures from
    before they were recorded. `options` are plain arguments, `stored` the elements that sparse
    tensors hold, by the argument's name. `weight` is the shape of the module's weight, empty where
    it has none, None in captures from before it was recorded.
    """

    kind: str
    inputs: Shapes
    outputs: Shapes
    input_types: Sequence[str] = ()
    output_types: Sequence[str] = ()
    parameter_bytes: int = 0
    weight: Shape | None = None
    names: Sequence[str] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    stored: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of_row(cls, kind: str, row: Mapping[Hashable, Any]) -> Operands:
        """Those of a row of the table `layers`, taken to be of type `kind`."""
        arguments = json.loads(row.get("arguments", "{}"))
        return cls(
            kind,
            json.loads(row["input_shapes"]),
            json.loads(row["output_shapes"]),
            json.loads(row["input_dtypes"]),
            json.loads(row["output_dtypes"]),
            row["parameter_bytes"],
            json.loads(row.get("weight_shape", "null")),
            arguments.get("tensors"),
            arguments.get("options", {}),
            arguments.get("stored", {}),
        )

    def named(self, order: Sequence[str]) -> Operands:
        """With names: the recorded ones, or those that a call with all tensors in the signature's
        order would have.
        """
        return self if self.names is not None else replace(self, names=order[: len(self.inputs)])

    def every(self, name: str) -> Shapes:
        """Shapes of all tensors that were passed as the argument `name`."""
        pairs = zip(self.names or (), self.inputs, strict=False)
        return [shape for own, shape in pairs if own == name]

    def has(self, name: str) -> bool:
        """Whether a tensor was passed as the argument `name`."""
        return name in (self.names or ())

    def shape(self, *names: str) -> Shape:
        """Shape of the tensor passed as one of these arguments, the first that there is.

        Raises UnknownWorkError if there is none, or several.
        """
        for name in names:
            found = self.every(name)
            if len(found) == 1:
                return found[0]
            if found:
                break
        raise UnknownWorkError(
            f"{self.kind} does not have exactly one tensor called {' or '.join(names)}"
        )

    @property
    def source(self) -> Shape:
        """Shape of what a module is given, whatever its class calls it: `input`, or else the first
        tensor. Raises UnknownWorkError if there is none.
        """
        given = self.every("input") or self.inputs
        if not given:
            raise UnknownWorkError(f"{self.kind} has no input")
        return given[0]

    @property
    def output(self) -> Shape:
        """Shape of the first output. Raises UnknownWorkError if there is none."""
        if not self.outputs:
            raise UnknownWorkError(f"{self.kind} has no output")
        return self.outputs[0]

    def option(self, name: str) -> int:
        """A plain argument that is a whole number. Raises UnknownWorkError if it is not one."""
        value = self.options.get(name)
        if not isinstance(value, int):
            raise UnknownWorkError(f"{name} of {self.kind} is {value!r}")
        return value

    @property
    def is_complex(self) -> bool:
        """Whether any tensor is complex, so that a multiplication is four and two additions."""
        return any("complex" in kind for kind in (*self.output_types, *self.input_types))

    def parts(self) -> list[Operands]:
        """One for each tensor that a nested tensor consists of; itself where none is nested.

        Raises UnknownWorkError where the parts of several nested tensors do not pair up.
        """
        names = self.names or ()
        counts = {name: names.count(name) for name in names}
        most = max(counts.values(), default=1)
        if most == 1:
            return [self]
        if set(counts.values()) - {1, most} or len(self.outputs) != most:
            raise UnknownWorkError(f"parts of nested tensors of {self.kind} do not pair up")
        return [self._part(counts, number) for number in range(most)]

    def _part(self, counts: Mapping[str, int], number: int) -> Operands:
        shapes = {
            name: self.every(name)[number if count > 1 else 0] for name, count in counts.items()
        }
        return replace(
            self,
            names=list(shapes),
            inputs=list(shapes.values()),
            outputs=[self.outputs[number]],
        )


def require(fits: bool, what: str) -> None:
    """Raises UnknownWorkError unless shapes fit together as the rule for them says."""
    if not fits:
        raise UnknownWorkError(what)


def multiplications(layer: Operands, count: float) -> float:
    """FLOPs of so many multiplications without additions, as a part of the multiply-adds that
    `product_flops` multiplies for complex numbers: of these one takes 6 real operations, a
    multiply-add 8.
    """
    return count * (1.5 if layer.is_complex else 1.0)


def additions(layer: Operands, count: float) -> float:
    """Likewise of so many additions, which take 2 real operations each where they are complex."""
    return count * (0.5 if layer.is_complex else 1.0)
