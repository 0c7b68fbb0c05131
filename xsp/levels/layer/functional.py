"""Which torch functions are layers, and how they are called in tables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

# These only read or set metadata: they compute nothing, launch nothing and would drown the layers.
_METADATA = frozenset(
    {
        "size",
        "dim",
        "ndimension",
        "stride",
        "numel",
        "nelement",
        "element_size",
        "storage_offset",
        "data_ptr",
        "get_device",
        "storage_type",
        "is_contiguous",
        "is_floating_point",
        "is_complex",
        "is_signed",
        "is_inference",
        "is_same_size",
        "is_set_to",
        "is_pinned",
        "is_shared",
        "is_neg",
        "is_conj",
        "is_distributed",
        "is_storage",
        "is_tensor",
        "is_coalesced",
        "is_sparse_csr",
        "untyped_storage",
        "storage",
        "requires_grad_",
        "register_hook",
        "register_post_accumulate_grad_hook",
        "retain_grad",
        "detach_",
        "has_names",
        "__len__",
        "__hash__",
        "__repr__",
        "__format__",
        "__dir__",
        "__reduce_ex__",
        "__iter__",
        "result_type",
        "promote_types",
        "can_cast",
        "broadcast_shapes",
        "device",
        "_is_view",
        "_set_grad_enabled",
        "_has_compatible_shallow_copy_type",
    }
)

# Autograd's entry points run other layers' backward work. What they do themselves, such as filling
# the first gradient, is their own.
BACKWARD_ENTRIES: frozenset[Any] = frozenset(
    {torch.Tensor.backward, torch.autograd.backward, torch.autograd.grad}
)


@dataclass(frozen=True)
class CompiledFunction:
    """What `torch.compile` returned for a function of this name; a call of it is one layer."""

    name: str


def is_layer(function: Callable[..., Any] | CompiledFunction) -> bool:
    """Whether a torch function called outside every leaf module counts as a layer of its own."""
    name = getattr(function, "__name__", "")
    if name in {"__get__", "__set__", "__delete__"}:
        # Property access. `Tensor.T`, `.mT` and `.grad` are views or attributes and launch nothing.
        return False
    if name.startswith(("_record_function", "record_function")):
        return False
    return name not in _METADATA


@lru_cache(maxsize=4096)
def layer_type(function: Callable[..., Any] | CompiledFunction) -> str:
    """Short name for tables: `add` for `Tensor.__add__`, `relu` for `F.relu`."""
    if isinstance(function, CompiledFunction):
        return function.name
    name = getattr(function, "__name__", type(function).__name__)
    return name.strip("_") or name
