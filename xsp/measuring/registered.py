"""Which modules, parameters and buffers a model has: a call can make some, as those do that build a
part of themselves when they are first called.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from xsp.machine.torch_internals import buffers_of, children_of, parameters_of


def is_registered(module: nn.Module, name: str) -> bool:
    """Whether a module of the program has a module, parameter or buffer of this name."""
    return any(name in registry for registry in _registries(module))


class Registered:
    """What a model's modules have by name, put back after the last run. Runs find what the first of
    them made.

    A parameter or buffer of the same name may be another one afterwards: wrappers that shard
    parameters exchange them.
    """

    def __init__(self, model: nn.Module) -> None:
        self._held = [
            (registry, dict(registry))
            for module in model.modules()
            if not isinstance(module, torch.jit.ScriptModule)
            for registry in _registries(module)
        ]

    def restore(self) -> None:
        """As the user left it."""
        for registry, held in self._held:
            if not _are_same(registry, held):
                kept = {name: _kept(registry, name, value) for name, value in held.items()}
                registry.clear()
                registry.update(kept)


def _registries(module: nn.Module) -> tuple[dict[str, Any], ...]:
    return children_of(module), parameters_of(module), buffers_of(module)


def _kept(registry: dict[str, Any], name: str, value: Any) -> Any:
    return value if isinstance(value, nn.Module) else registry.get(name, value)


def _are_same(registry: dict[str, Any], held: dict[str, Any]) -> bool:
    return list(registry) == list(held) and all(
        registry[name] is value for name, value in held.items() if isinstance(value, nn.Module)
    )
