"""Layouts in memory of an exported call's tensors, where torch.export gets those of convolutions
wrong.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

_NOTE = "layouts behind convolutions are those that torch.export gives: {error}"
"""Where they could not be worked out again."""


def mend_layouts(graph: fx.Graph) -> str:
    """Give the nodes of an exported graph the strides that their tensors have when it runs.

    A convolution of which the input or the weight lies channels last answers channels last
    (PyTorch's `cudnn_conv_suggest_memory_format`, which oneDNN follows too; not in float64). On a
    GPU torch.export of torch 2.11 says that it answers contiguously, and so do all layers behind
    it: ResNet-50 channels last was taken for a contiguous one. Only then is the graph run again,
    with tensors that have no data.

    Returns a note if that fails, and then changes nothing; else nothing ("").
    """
    if not any(_is_wrong(node) for node in graph.nodes):
        return ""
    runner = _Runner(graph.owning_module)
    inputs = [node.meta.get("val") for node in graph.nodes if node.op == "placeholder"]
    try:
        runner.run(*inputs)
    except Exception as error:  # any operator of any model
        return _NOTE.format(error=f"{type(error).__name__} at {runner.at}")
    for node, value in runner.values.items():
        node.meta["val"] = value
    return ""


class _Runner(fx.Interpreter):
    """Runs with tensors without data; a convolution answers in the layout that it really has."""

    def __init__(self, module: Any) -> None:
        super().__init__(module)
        self.values: dict[fx.Node, Any] = {}
        self.at = ""

    def run_node(self, n: fx.Node) -> Any:
        self.at = n.name
        value = super().run_node(n)
        if _is_convolution(n) and _answers_channels_last(self._operands(n)):
            value = value.contiguous(memory_format=torch.channels_last)
        if n.op == "call_function":
            self.values[n] = value
        return value

    def _operands(self, node: fx.Node) -> list[Any]:
        return [self.env[each] for each in node.all_input_nodes[:2]]


def _is_convolution(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and str(schema.name).startswith("aten::conv")


def _is_wrong(node: fx.Node) -> bool:
    operands = [each.meta.get("val") for each in node.all_input_nodes[:2]]
    return (
        _is_convolution(node)
        and _answers_channels_last(operands)
        and not lies_channels_last(node.meta.get("val"))
    )


def _answers_channels_last(operands: list[Any]) -> bool:
    tensors = [each for each in operands if isinstance(each, torch.Tensor)]
    if any(each.dtype == torch.float64 for each in tensors):
        return False
    return any(lies_channels_last(each) for each in tensors)


def lies_channels_last(value: Any) -> bool:
    """Whether a tensor of four dimensions lies so and not contiguously as well."""
    if not isinstance(value, torch.Tensor) or value.dim() != 4:
        return False
    last = value.is_contiguous(memory_format=torch.channels_last)
    return last and not value.is_contiguous()


__all__ = ["lies_channels_last", "mend_layouts"]
