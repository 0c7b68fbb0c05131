"""The tensors inside what a program passes around: which there are, their shapes, how often they
were written to.
"""

from __future__ import annotations

from typing import Any

import torch

from xsp.machine.torch_internals import (
    leaves_of,
    stored_values,
    version_of,
    without_torch_functions,
)


def tensors_in(value: Any) -> list[torch.Tensor]:
    """Tensors inside nested containers, in order; dataclasses and mappings registered with pytree
    included.
    """
    # Nearly every layer takes and gives a tensor or a flat tuple: pytree, at 10 us a call, is kept
    # for the rest.
    if isinstance(value, torch.Tensor):
        return [value]
    if type(value) is tuple:
        plain = [item for item in value if isinstance(item, torch.Tensor)]
        if len(plain) == len(value):
            return plain
    return [leaf for leaf in leaves_of(value) if isinstance(leaf, torch.Tensor)]


def described(value: Any) -> tuple[list[list[int]], list[str]]:
    """Shapes and dtypes of the tensors inside `value`; a nested tensor counts as the tensors that
    it consists of.
    """
    given = tensors_in(value)
    # Reading an attribute is a torch function: no mode or tensor subclass of the user's may see it.
    with without_torch_functions():
        tensors = [
            one for tensor in given for one in (_parts(tensor) if tensor.is_nested else [tensor])
        ]
        shapes = [list(tensor.shape) for tensor in tensors]
        return shapes, [str(tensor.dtype).removeprefix("torch.") for tensor in tensors]


def _parts(nested: torch.Tensor) -> list[torch.Tensor]:
    with torch.no_grad():
        return list(nested.detach().unbind())


_COMPRESSED = (torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc)


def stored_elements(value: Any) -> int | None:
    """How many elements a sparse tensor stores, those of its blocks included; None for others."""
    if not isinstance(value, torch.Tensor):
        return None
    with without_torch_functions():
        if value.layout is torch.sparse_coo:
            return stored_values(value).numel()
        return value.values().numel() if value.layout in _COMPRESSED else None


def versions(value: Any) -> list[int]:
    """How often each tensor inside `value` was written to so far, as autograd counts it."""
    with without_torch_functions():
        return [version_of(tensor) for tensor in tensors_in(value)]
