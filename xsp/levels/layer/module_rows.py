"""What the structure run writes down of modules and of their calls."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from xsp.levels.layer.arguments import Called
from xsp.levels.layer.layer_rows import LayerRow
from xsp.levels.layer.structure import ModuleRow
from xsp.machine.torch_internals import own_parameters, without_torch_functions


def module_row(name: str, module: nn.Module, is_leaf: bool) -> ModuleRow:
    """The row of a module."""
    return ModuleRow(name, type(module).__name__, _bytes(module), is_leaf)


@dataclass(frozen=True)
class Parameters:
    """What a module holds: bytes, and the shape of the tensor called `weight` (weight normalisation
    makes it an attribute), empty without one.
    """

    bytes: int
    weight: tuple[int, ...]

    @classmethod
    def of(cls, module: nn.Module) -> Parameters:
        """As they are now."""
        weight = own_parameters(module).get("weight", vars(module).get("weight"))
        with without_torch_functions():
            is_plain = isinstance(weight, torch.Tensor) and not weight.is_nested
            shape = tuple(weight.shape) if is_plain and weight is not None else ()
        return cls(_bytes(module), shape)


def leaf_call_row(
    name: str, module: nn.Module, parameters: Parameters, called: Called, source: str
) -> LayerRow:
    """The row of a call of a leaf module."""
    return LayerRow(
        name,
        type(module).__name__,
        "module",
        name.rpartition(".")[0],
        "forward",
        inputs=called,
        parameter_bytes=parameters.bytes,
        weight_shape=list(parameters.weight),
        arguments=called.arguments,
        source=source,
    )


def _bytes(module: nn.Module) -> int:
    """Of all parameters in a module."""
    holds_others = next(module.children(), None) is not None
    with without_torch_functions():
        parameters = module.parameters() if holds_others else own_parameters(module).values()
        return sum([each.numel() * each.element_size() for each in parameters])
