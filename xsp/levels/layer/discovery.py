"""Which modules a program calls, found out in its first run by replacing `nn.Module.__call__`."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from xsp.levels.layer.compiled import Leave, around_compiled_code
from xsp.levels.layer.custom_functions import Containers
from xsp.machine.torch_internals import put_right_in_dynamo, without_torch_functions

LayerCall = tuple[nn.Module, tuple[tuple[int, ...], ...]]
"""A module and the shapes of the tensors among its positional arguments."""


@dataclass
class Discovered:
    """How often each module was called, in the order of first calls; those called outside any
    other; the custom Functions that hold layers; and every call on the watching thread, in order.
    """

    calls: Counter[nn.Module] = field(default_factory=Counter)
    roots: list[nn.Module] = field(default_factory=list)
    containers: Containers = field(default_factory=Containers)
    sequence: list[LayerCall] = field(default_factory=list)
    last_run: Counter[nn.Module] = field(default_factory=Counter)
    """Calls since the last `new_run`."""

    def new_run(self) -> None:
        """Said before each execution."""
        self.last_run.clear()
        self.sequence.clear()

    def differently(self, other: Discovered) -> dict[nn.Module, tuple[int, int]]:
        """Modules that the last run of each called a different number of times. Those that a call
        makes anew, as in `nn.ReLU()(x)`, are as good as others of their kind.
        """
        every = dict.fromkeys([*self.last_run, *other.last_run])
        anew: dict[type, nn.Module] = {}
        counts: dict[nn.Module, tuple[int, int]] = {}
        for each in every:
            mine, its = self.last_run[each], other.last_run[each]
            one = each
            if not (mine and its) and _holds_nothing(each):
                one = anew.setdefault(type(each), each)
            before = counts.get(one, (0, 0))
            counts[one] = before[0] + mine, before[1] + its
        return {each: (mine, its) for each, (mine, its) in counts.items() if mine != its}


def _holds_nothing(module: nn.Module) -> bool:
    if isinstance(module, torch.jit.ScriptModule):
        return False
    held = *module.parameters(), *module.buffers()
    return not held


def shapes_of(args: tuple[Any, ...]) -> tuple[tuple[int, ...], ...]:
    """Shapes of the tensors among positional arguments."""
    with without_torch_functions():
        return tuple(
            tuple(each.shape)
            for each in args
            if isinstance(each, torch.Tensor) and not each.is_nested
        )


@contextmanager
def discovered(found: Discovered, *, blame: bool = True) -> Iterator[None]:
    """Add what is called inside the block to `found`. With `blame` an exception that passes is told
    the innermost module that it passed, as `_xsp_layer`.

    `nn.Module.__call__` is replaced for it, except while compiled code runs. Global hooks would do
    the same, but torch.compile compiles modules again for them, and warns.
    """
    depth: Counter[int] = Counter()
    # A program can call very many modules one after the other.
    known_roots = set(found.roots)
    own = threading.get_ident()
    call = nn.Module.__call__

    def watched(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        thread = threading.get_ident()
        if depth[thread] == 0 and module not in known_roots:
            known_roots.add(module)
            found.roots.append(module)
        depth[thread] += 1
        found.calls[module] += 1
        found.last_run[module] += 1
        if thread == own:
            found.sequence.append((module, shapes_of(args)))
        found.containers.layer_inside()
        try:
            return call(module, *args, **kwargs)
        except BaseException as error:
            # The innermost module is the first to see an exception pass; outer ones must not claim
            # it.
            if blame and not hasattr(error, "_xsp_layer"):
                with suppress(Exception):  # one that takes no attributes stays as it is
                    error._xsp_layer = module  # type: ignore[attr-defined]
            raise
        finally:
            depth[thread] -= 1

    def hidden(_name: str, _inputs: Any) -> Leave:
        nn.Module.__call__ = call  # type: ignore[method-assign]
        return lambda _result: setattr(nn.Module, "__call__", watched)

    with ExitStack() as undo:
        undo.callback(around_compiled_code(hidden))
        undo.callback(found.containers.watch())
        undo.callback(put_right_in_dynamo, watched, call)
        undo.callback(setattr, nn.Module, "__call__", call)
        nn.Module.__call__ = watched  # type: ignore[method-assign]
        yield
