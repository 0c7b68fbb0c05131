"""Putting back what a training step changes: models with their parameters, optimizers, schedulers,
scalers, tensors, containers, random generators, and any other object that keeps its state in
attributes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from xsp.errors import TargetError
from xsp.measuring.copies import Copier
from xsp.measuring.places import Place, generator_place, place_of, tensor_place
from xsp.measuring.python_state import PythonState
from xsp.measuring.state import ModelState


class Restored:
    """Objects as they are now, put back before every run and after the last.

    Runs work on copies of what the objects keep in attributes; the values of parameters, which a
    program knows by identity, are copied back, and so is what tensors, containers and random
    generators hold.

    Raises TargetError for an object that keeps nothing in attributes and is none of these.
    """

    def __init__(self, objects: Iterable[Any]) -> None:
        self._models: list[tuple[ModelState, PythonState]] = []
        self._own: list[tuple[Any, dict[str, Any], dict[str, Any]]] = []
        self._places: list[tuple[Place, Any, Any]] = []
        parameters: dict[int, torch.Tensor] = {}
        copier = Copier()
        for each in objects:
            if isinstance(each, nn.Module):
                self._models.append((ModelState(each), PythonState(each)))
                parameters |= {id(one): one for one in each.parameters()}
            elif (place := _place(each)) is not None:
                own = place.read()
                self._places.append((place, own, copier(own)))
            elif hasattr(each, "__dict__") and not isinstance(each, type):
                own = dict(vars(each))
                self._own.append((each, own, {name: copier(value) for name, value in own.items()}))
            else:
                raise TargetError(
                    "restore must be models, optimizers, schedulers, tensors, lists, dictionaries, "
                    "random generators or other objects with attributes, not "
                    f"{each!r} of type {type(each).__name__}"
                )
        self._parameters = [(one, one.detach().clone()) for one in parameters.values()]

    def prepare(self) -> None:
        """Before a run: everything as at the start."""
        copier = Copier()
        for model, python in self._models:
            model.restore()
            python.prepare(copier)
        for each, _, start in self._own:
            _put(each, {name: copier(value) for name, value in start.items()})
        for place, _, start in self._places:
            place.write(copier(start))
        self._restore_parameters()

    def restore(self) -> None:
        """After the last run: everything as the user left it."""
        for model, python in self._models:
            model.restore_with_gradients()
            python.restore()
        for each, own, _ in self._own:
            _put(each, own)
        for place, own, _ in self._places:
            place.write(own)
        self._restore_parameters()

    def _restore_parameters(self) -> None:
        with torch.no_grad():
            for parameter, value in self._parameters:
                parameter.copy_(value)


def _place(each: Any) -> Place | None:
    if isinstance(each, torch.Tensor):
        return tensor_place(each)
    return generator_place(each) or place_of(each)


def _put(each: Any, values: dict[str, Any]) -> None:
    held = vars(each)
    for name in [name for name in held if name not in values]:
        del held[name]
    held.update(values)
