"""What each collective of a structure run moves: operation, bytes, data type and group.

Everything that a program or PyTorch itself sends goes through an operator of the dispatcher's
library `c10d`, also what DistributedDataParallel's reducer sends in C++. These operators have no
autograd of their own, so a kernel at autograd's key sees their arguments and hands them on.
The functional collectives, which DTensor makes, call them below autograd: their own arguments say
the same (`of_functional`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch.distributed as dist

from xsp.analysis.work.collectives import (
    ALL_GATHER,
    ALL_REDUCE,
    ALL_TO_ALL,
    BARRIER,
    FUNCTIONAL,
    RECEIVE,
    REDUCE_SCATTER,
    SEND,
)
from xsp.levels.layer.tensors import tensors_in
from xsp.machine.torch_internals import (
    at_autograd_key,
    functional_group,
    process_group_in,
    without_torch_functions,
)

Fact = dict[str, Any]
"""`operation`, `bytes` (the size as nccl-tests has it: of the whole tensor, gathered or not yet
scattered), `dtype`, `ranks` (those of the group; null where it is all), `group` (torch's name of
the group, the same on all of its ranks), and of a send or receive `peer` (its rank in
the job; one that receives from whoever sends has none).
"""

_OPERATORS: dict[str, tuple[str, int]] = {
    "allreduce_": (ALL_REDUCE, 0),
    "allreduce_coalesced_": (ALL_REDUCE, 0),
    "allgather_": (ALL_GATHER, 0),
    "_allgather_base_": (ALL_GATHER, 0),
    "allgather_into_tensor_coalesced_": (ALL_GATHER, 0),
    "reduce_scatter_": (REDUCE_SCATTER, 1),
    "_reduce_scatter_base_": (REDUCE_SCATTER, 1),
    "reduce_scatter_tensor_coalesced_": (REDUCE_SCATTER, 1),
    "alltoall_": (ALL_TO_ALL, 1),
    "alltoall_base_": (ALL_TO_ALL, 1),
    "barrier": (BARRIER, 0),
    "send": (SEND, 0),
    "recv_": (RECEIVE, 0),
    "recv_any_source_": (RECEIVE, 0),
}
"""By operator what it does, and which argument has the tensors of the whole size."""

_PEER = {"send": 2, "recv_": 2}

WAIT = "wait_tensor"
"""Of the functional collectives: until what one gives is there."""


def watch(tell: Callable[[Fact], None]) -> Callable[[], None]:
    """Tell of each operation of this process that is seen; returns what ends this."""
    undo = ExitStack()
    for name in _OPERATORS:
        undo.callback(at_autograd_key("c10d", name, partial(_seen, tell, name)))
    return undo.close


def of_functional(
    function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Fact:
    """What a functional collective was asked for and gave."""
    does = FUNCTIONAL[function.__name__]
    given = inspect.signature(function).bind(*args, **kwargs).arguments
    group = functional_group(given.get("group"), given.get("tag", ""))
    sent = next(iter(given.values()))
    ranks = 1 if group is None else group.size()
    with without_torch_functions():
        return _known(does, sent, group, of_each=ranks if does == ALL_GATHER else 1)


def _seen(tell: Callable[[Fact], None], name: str, *args: Any) -> None:
    tell(_fact(name, args))


def _fact(name: str, args: Sequence[Any]) -> Fact:
    does, place = _OPERATORS[name]
    group = process_group_in(args)
    with without_torch_functions():
        known = _known(does, args[place], group)
    if name in _PEER and group is not None:
        known["peer"] = dist.get_global_rank(group, int(args[_PEER[name]]))
    return known


def _known(does: str, tensors: Any, group: Any, of_each: int = 1) -> Fact:
    """The fact, where the whole is so many times the tensors."""
    return {
        "operation": does,
        "bytes": _bytes(tensors) * of_each,
        "dtype": _dtype(tensors),
        "ranks": _ranks(group),
        "group": "" if group is None else str(group.group_name),
    }


def _bytes(value: Any) -> int:
    return sum(each.numel() * each.element_size() for each in tensors_in(value))


def _dtype(value: Any) -> str:
    names = {str(each.dtype).removeprefix("torch.") for each in tensors_in(value)}
    return names.pop() if len(names) == 1 else ", ".join(sorted(names))


def _ranks(group: Any) -> list[int] | None:
    if group is None or group.size() == dist.get_world_size():
        return None
    return sorted(dist.get_process_group_ranks(group))
