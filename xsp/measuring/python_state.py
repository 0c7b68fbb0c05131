"""What modules keep in Python, such as `self.position += 1` or a cache in an attribute."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from xsp.machine.torch_internals import CALL, COMPILED_CALL, REPLICATE
from xsp.measuring.copies import Copier, UsedOnceError, same
from xsp.measuring.registered import is_registered

_NOT_STATE = {*vars(nn.Module()), CALL, COMPILED_CALL, REPLICATE, "__reduce_ex__"}
"""torch's own attributes, which are put back in another way, and those that tracers replace."""

Attributes = Mapping[nn.Module, dict[str, Any]]


def attributes(model: nn.Module, copier: Copier | None = None) -> Attributes:
    """By module its own attributes, copied if a copier is given."""
    return {
        module: {
            name: _copied(value, copier)
            for name, value in list(vars(module).items())
            if name not in _NOT_STATE
        }
        for module in model.modules()
        if not isinstance(module, torch.jit.ScriptModule) and not _is_torchs(module)
    }


def _is_torchs(module: nn.Module) -> bool:
    """Layers of torch keep nothing in Python; its wrappers, such as FSDP, keep handles that their
    hooks know by identity.
    """
    return type(module).__module__.startswith("torch.")


def _copied(value: Any, copier: Copier | None) -> Any:
    try:
        return value if copier is None else copier(value)
    except UsedOnceError:
        return value


def copier_for(model: nn.Module | None) -> Copier:
    """A copier that leaves a model's buffers alone, which are put back whole before each run."""
    return Copier(() if model is None else model.buffers())


class PythonState:
    """The attributes of a model's modules, put back before every run and after the last.

    The user's own objects are set aside; runs work on copies. An attribute that the first run left
    alone is from then on the user's own again.

    Args:
        model: the model.
        start: copies of the attributes as runs find them; those of now by default.

    """

    def __init__(self, model: nn.Module, start: Attributes | None = None) -> None:
        self._model = model
        self._own = attributes(model)
        self._start = start or attributes(model, copier_for(model))
        self._changing: set[tuple[nn.Module, str]] | None = None

    def prepare(self, copier: Copier) -> None:
        """Before a run: every attribute as at the start, but for one of a name under which a module
        has made another module since, which it would hide.
        """
        for module, start in self._start.items():
            own = self._own.get(module, {})
            self._put(
                module,
                {
                    name: copier(value) if self._is_copied(module, name) else own[name]
                    for name, value in start.items()
                    if not is_registered(module, name)
                },
            )

    def note_changes(self) -> None:
        """After the first run: find out which attributes it changed."""
        now = attributes(self._model)
        self._changing = {
            (module, name)
            for module, start in self._start.items()
            for name, value in start.items()
            if name not in self._own.get(module, {})
            or not same(value, now[module].get(name))
            or not same(value, self._own[module][name])
        }

    def restore(self) -> None:
        """Every attribute as the user left it."""
        for module, own in self._own.items():
            self._put(module, own)

    def _is_copied(self, module: nn.Module, name: str) -> bool:
        return self._changing is None or (module, name) in self._changing

    @staticmethod
    def _put(module: nn.Module, values: dict[str, Any]) -> None:
        held = vars(module)
        for name in [name for name in held if name not in _NOT_STATE and name not in values]:
            del held[name]
        held.update(values)
