"""What the structure run writes down of modules and of their calls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from xsp.levels.layer.descriptions import Descriptions
from xsp.levels.layer.naming import is_leaf
from xsp.levels.layer.structure import LayerRow, ModuleRow
from xsp.machine.torch_internals import own_parameters, without_torch_functions


def module_row(name: str, module: nn.Module) -> ModuleRow:
    """The row of a module."""
    return ModuleRow(name, type(module).__name__, _parameter_bytes(module), is_leaf(module))


def leaf_call_row(
    code: int,
    name: str,
    module: nn.Module,
    args: Any,
    kwargs: Mapping[str, Any],
    descriptions: Descriptions,
) -> LayerRow:
    """The row of a call of a leaf module."""
    called = descriptions.of_module(module, args, kwargs)
    return LayerRow(
        code,
        name,
        type(module).__name__,
        "module",
        name.rpartition(".")[0],
        "forward",
        input_shapes=called.shapes,
        input_dtypes=called.dtypes,
        parameter_bytes=_parameter_bytes(module),
        weight_shape=_weight_shape(module),
        arguments=called.arguments,
    )


def _weight_shape(module: nn.Module) -> list[int]:
    """Shape of the tensor called `weight`, empty without one; weight normalisation makes it an
    attribute.
    """
    weight = own_parameters(module).get("weight", vars(module).get("weight"))
    with without_torch_functions():
        if not isinstance(weight, torch.Tensor) or weight.is_nested:
            return []
        return list(weight.shape)


def _parameter_bytes(module: nn.Module) -> int:
    holds_others = next(module.children(), None) is not None
    with without_torch_functions():
        parameters = module.parameters() if holds_others else own_parameters(module).values()
        return sum([each.numel() * each.element_size() for each in parameters])
