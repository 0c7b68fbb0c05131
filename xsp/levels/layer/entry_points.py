"""Stepping into the calls of a module, cheaply.

A forward hook makes `nn.Module.__call__` take its slow path: on an H100 host two hooks cost a leaf
module 15 us. Replacing the instance's method that `__call__` looks up costs one Python
call and includes the user's own hooks, as a layer should. Modules that are called in another way
(TorchScript, torch.compile, an own `__call__`) get hooks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, SupportsIndex, cast

import torch
from torch import nn

from xsp.machine.dynamo_internals import is_compiled, passed_over_by_dynamo
from xsp.machine.torch_internals import CALL, COMPILED_CALL, REPLICATE

_COPYING = ("__reduce_ex__", REPLICATE)

Wrap = Callable[[Callable[..., Any]], Callable[..., Any]]
"""Given what a call would have run, the function to run instead."""


def entry_point(module: nn.Module) -> str | None:
    """The instance attribute through which calls of this module go, None where only hooks
    see them.
    """
    if isinstance(module, torch.jit.ScriptModule) or is_compiled(module):
        return None
    if type(module).__call__ is not nn.Module.__call__ or not hasattr(module, CALL):
        return None
    # Set by `module.compile()`: the compiler must not see, and compile again with, what surrounds
    # the call.
    return COMPILED_CALL if getattr(module, COMPILED_CALL, None) is not None else CALL


def step_in(module: nn.Module, attribute: str, wrap: Wrap) -> Callable[[], None]:
    """Replace the entry point of one module; returns what puts it back.

    The replacement calls this very module. A copy that the program makes of it, by `copy`, `pickle`
    or DataParallel, must not have it, or it would run the weights of the original: what copies are
    made from is replaced too.
    """
    own = vars(module)
    before = {name: own[name] for name in (attribute, *_COPYING) if name in own}

    def as_before(state: dict[str, Any]) -> dict[str, Any]:
        rest = {name: value for name, value in state.items() if name not in (attribute, *_COPYING)}
        return rest | {name: value for name, value in before.items() if name in state}

    def reduce_ex(protocol: SupportsIndex) -> Any:
        made = type(module).__reduce_ex__(module, protocol)
        if isinstance(made, tuple) and len(made) > 2 and isinstance(made[2], dict):
            return (*made[:2], as_before(made[2]), *made[3:])
        return made

    def replicate() -> nn.Module:
        replica = getattr(type(module), REPLICATE)(module)
        state = as_before(vars(replica))
        vars(replica).clear()
        vars(replica).update(state)
        return cast("nn.Module", replica)

    def restore() -> None:
        for name in (attribute, *_COPYING):
            own.pop(name, None)
        own.update(before)

    try:
        # What `torch.compile(module)` gave calls this module with Dynamo looking on.
        stand_in = wrap(getattr(module, attribute))
        passed_over_by_dynamo(stand_in)
        own |= {attribute: stand_in, "__reduce_ex__": reduce_ex}
        own[REPLICATE] = replicate
        return restore
    except BaseException:
        restore()
        raise


def step_in_by_hooks(
    module: nn.Module,
    before: Callable[[nn.Module, Any, Mapping[str, Any]], None],
    after: Callable[[nn.Module, Any, Mapping[str, Any], Any], None],
) -> Callable[[], None]:
    """The same through forward hooks; `after` is called also when the module raises, with None for
    the output.
    """
    # Called on the class: TorchScript modules have hooks, but refuse to be asked for them.
    handles = (
        nn.Module.register_forward_pre_hook(module, before, with_kwargs=True),
        nn.Module.register_forward_hook(module, after, with_kwargs=True, always_call=True),
    )

    def restore() -> None:
        for handle in handles:
            handle.remove()

    return restore
