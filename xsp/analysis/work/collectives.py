"""Operations of `torch.distributed`, as layers are asked for them and as captures name them."""

from __future__ import annotations

ALL_REDUCE, ALL_GATHER, REDUCE_SCATTER = "all_reduce", "all_gather", "reduce_scatter"
ALL_TO_ALL, BARRIER, SEND, RECEIVE = "all_to_all", "barrier", "send", "receive"

FUNCTIONAL: dict[str, str] = {
    "all_reduce": ALL_REDUCE,
    "all_reduce_coalesced": ALL_REDUCE,
    "all_gather_single": ALL_GATHER,
    "all_gather_single_autograd": ALL_GATHER,
    "all_gather_single_coalesced": ALL_GATHER,
    "all_gather_tensor": ALL_GATHER,
    "all_gather_tensor_autograd": ALL_GATHER,
    "all_gather_into_tensor_coalesced": ALL_GATHER,
    "reduce_scatter_single": REDUCE_SCATTER,
    "reduce_scatter_single_autograd": REDUCE_SCATTER,
    "reduce_scatter_single_coalesced": REDUCE_SCATTER,
    "reduce_scatter_tensor": REDUCE_SCATTER,
    "reduce_scatter_tensor_autograd": REDUCE_SCATTER,
    "reduce_scatter_tensor_coalesced": REDUCE_SCATTER,
    "all_to_all_single": ALL_TO_ALL,
    "all_to_all_single_autograd": ALL_TO_ALL,
}
"""The functional collectives, those of older releases too, and what each does."""
