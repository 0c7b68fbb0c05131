"""FLOPs of the matrix products, convolutions and attention in a compiled graph, by the formulas of
`torch.utils.flop_counter` on the shapes that the nodes have.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.flop_counter import flop_registry

from xsp.machine.torch_internals import flattened, unflattened
from xsp.provenance.sizes import size_when_compiled


def product_flops(node: Any) -> int | None:
    """A multiplication and an addition counted apart; 0 for what is no product, None for one of
    which it is not known. Dimensions that vary count as they were when compiled.
    """
    packet = getattr(node.target, "overloadpacket", node.target)
    is_backward = packet is torch.ops.aten.convolution_backward
    formula = flop_registry.get(torch.ops.aten.convolution if is_backward else packet)
    if formula is None:
        return None if _is_product(node, packet) else 0
    try:
        shapes = _shapes((node.args, node.kwargs, node), type(node))
        if is_backward:
            return _of_convolution_backward(formula, shapes[0])
        return int(formula(*shapes[0], **shapes[1], out_val=shapes[2]))
    except Exception:  # another release's formula or operator, or a size that only a run knows
        return None


def _is_product(node: Any, packet: Any) -> bool:
    """Whether it computes products that no formula is there for: attention on CPUs, what oneDNN
    fuses, and the sums that Inductor makes of small products.
    """
    written = getattr(node.meta.get("original_aten"), "overloadpacket", None)
    name = str(packet)
    return written in flop_registry or "attention" in name or name.startswith(_FUSED)


_FUSED = ("mkldnn.", "mkl.", "onednn.", "quantized.")


def _of_convolution_backward(formula: Any, given: Sequence[Any]) -> int:
    """As much as the forward pass for each gradient that is asked for. torch's own formula leaves
    groups out.
    """
    gradient, source, weight, _, stride, padding, dilation, transposed, *_, mask = given
    forward = formula(source, weight, None, stride, padding, dilation, transposed, out_val=gradient)
    return int(forward) * sum(map(bool, mask[:2]))


def _shapes(values: Any, node_type: type) -> Any:
    """With the shapes of tensors in the place of the nodes that give them."""
    held, containers = flattened(values)
    shaped = [_shape_of(each) if isinstance(each, node_type) else each for each in held]
    return unflattened(shaped, containers)


def _shape_of(node: Any) -> Any:
    value = node.meta["val"]
    if isinstance(value, tuple | list):
        return [_sizes(each) for each in value]
    return _sizes(value)


def _sizes(value: Any) -> Any:
    """The shape of a tensor; anything else, such as a gradient that nobody asked for, as it is."""
    if not isinstance(value, torch.Tensor):
        return value
    return [size_when_compiled(each) for each in value.shape]
