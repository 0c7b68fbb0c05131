"""What the structure run writes down of modules and of their calls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from xsp.levels.layer.arguments import Called
from xsp.levels.layer.layer_rows import LayerRow
from xsp.levels.layer.structure import ModuleRow
from xsp.machine.torch_internals import children_of, own_parameters, without_torch_functions


def module_row(name: str, module: nn.Module, is_leaf: bool) -> ModuleRow:
    """The row of a module."""
    return ModuleRow(name, type(module).__name__, _bytes(module, own_parameters(module)), is_leaf)


@dataclass(frozen=True)
class Parameters:
    """What a module holds: bytes, and the shape of the tensor called `weight` (weight normalisation
    makes it an attribute), empty without one.
    """

    bytes: int
    weight: tuple[int, ...]

    @classmethod
    def of(cls, module: nn.Module, own: Mapping[str, nn.Parameter]) -> Parameters:
        """As they are now; `own` are those that it holds itself."""
        weight = own.get("weight", vars(module).get("weight"))
        with without_torch_functions():
            is_plain = isinstance(weight, torch.Tensor) and not weight.is_nested
            shape = tuple(weight.shape) if is_plain and weight is not None else ()
        return cls(_bytes(module, own), shape)


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


def _bytes(module: nn.Module, own: Mapping[str, nn.Parameter]) -> int:
    """Of all parameters in a module."""
    with without_torch_functions():
        parameters = module.parameters() if len(children_of(module)) else own.values()
        return sum([each.numel() * each.element_size() for each in parameters])
