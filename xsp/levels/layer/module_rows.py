"""What the structure run writes down of modules and of their calls."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from xsp.levels.layer.arguments import Called
from xsp.levels.layer.layer_rows import LayerRow
from xsp.levels.layer.naming import is_leaf
from xsp.levels.layer.structure import ModuleRow
from xsp.machine.torch_internals import own_parameters, without_torch_functions


def module_row(name: str, module: nn.Module) -> ModuleRow:
    """The row of a module."""
    return ModuleRow(name, type(module).__name__, _parameter_bytes(module), is_leaf(module))


@dataclass(frozen=True)
class OwnParameters:
    """What a module holds itself: bytes, and the shape of the tensor called `weight` (weight
    normalisation makes it an attribute), empty without one.
    """

    bytes: int
    weight: tuple[int, ...]

    @classmethod
    def of(cls, module: nn.Module) -> OwnParameters:
        """As they are now."""
        own = own_parameters(module)
        weight = own.get("weight", vars(module).get("weight"))
        with without_torch_functions():
            is_plain = isinstance(weight, torch.Tensor) and not weight.is_nested
            shape = tuple(weight.shape) if is_plain and weight is not None else ()
            return cls(_bytes_of(own.values()), shape)


def leaf_call_row(
    name: str, module: nn.Module, parameters: OwnParameters, called: Called, source: str
) -> LayerRow:
    """The row of a call of a leaf module."""
    return LayerRow(
        name,
        type(module).__name__,
        "module",
        name.rpartition(".")[0],
        "forward",
        input_shapes=called.shapes,
        input_dtypes=called.dtypes,
        parameter_bytes=parameters.bytes,
        weight_shape=list(parameters.weight),
        arguments=called.arguments,
        source=source,
    )


def _parameter_bytes(module: nn.Module) -> int:
    holds_others = next(module.children(), None) is not None
    with without_torch_functions():
        return _bytes_of(module.parameters() if holds_others else own_parameters(module).values())


def _bytes_of(parameters: Iterable[nn.Parameter]) -> int:
    return sum([each.numel() * each.element_size() for each in parameters])
