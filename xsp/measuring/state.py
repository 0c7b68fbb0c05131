"""Saving what a re-run would change and putting it back: random state, buffers,
gradients, flags.
"""

from __future__ import annotations

import random
from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import is_lazy

from xsp.errors import TargetError
from xsp.machine.torch_internals import buffers_of, preserving_version

GENERATORS = ("Python's", "NumPy's", "torch's", "torch's CUDA")
"""The generators that a model can draw from, in the order of `RandomState`, as sentences name
them.
"""

PYTHON = GENERATORS[0]


@dataclass(frozen=True)
class RandomState:
    """State of every random generator a model can draw from."""

    python: tuple[Any, ...]
    numpy: Any
    cpu: torch.Tensor
    cuda: tuple[torch.Tensor, ...]

    @classmethod
    def current(cls) -> RandomState:
        """Copy the generators' states; CUDA generators only where CUDA is in use, so that it is not
        woken up.
        """
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
        return cls(random.getstate(), np.random.get_state(), torch.get_rng_state(), tuple(cuda))

    def changed(self, since: RandomState) -> frozenset[str]:
        """The GENERATORS that were drawn from, or seeded, since another state. Those of a GPU that
        was not in use then are left out.
        """
        mine, other = self._comparable(), since._comparable()
        return frozenset(
            name
            for name, one, two in zip(GENERATORS, mine, other, strict=True)
            if two not in (one, ())
        )

    def restore(self, generators: Collection[str]) -> None:
        """Put these GENERATORS back."""
        python, numpy, cpu, cuda = (name in generators for name in GENERATORS)
        if python:
            random.setstate(self.python)
        if numpy:
            np.random.set_state(self.numpy)
        if cpu:
            torch.set_rng_state(self.cpu)
        if cuda and self.cuda:
            torch.cuda.set_rng_state_all(list(self.cuda))

    def _comparable(self) -> tuple[Any, ...]:
        kind, keys, *rest = self.numpy
        numpy = (kind, keys.tobytes(), *rest)
        cuda = tuple(each.numpy().tobytes() for each in self.cuda)
        return self.python, numpy, self.cpu.numpy().tobytes(), cuda


class ModelState:
    """Buffers, gradients and training and requires_grad flags of a model, restorable any number of
    times.

    Values of buffers are copied once and copied back whole: batch normalisation and custom kernels
    write to buffers without raising their version counters, so no counter tells which were written.
    Gradients are set aside rather than copied: re-runs find none and accumulate into new tensors,
    which are dropped.

    Raises TargetError for a model whose parameters are only made by its first call.
    """

    def __init__(self, model: nn.Module) -> None:
        _refuse_lazy(model)
        self._modules = [(module, module.training) for module in model.modules()]
        self._parameters = [
            (parameter, parameter.requires_grad, parameter.grad) for parameter in model.parameters()
        ]
        self._buffers = [
            _Buffer.of(module, name, buffer)
            for module in model.modules()
            for name, buffer in buffers_of(module).items()
        ]
        # A graph that the user still holds may have saved a buffer: with its value, its version
        # must come back, or autograd would take it for modified.
        self._versions = ExitStack()
        for each in self._buffers:
            if each.tensor is not None and not each.tensor.is_inference():
                self._versions.enter_context(preserving_version(each.tensor))

    def restore(self) -> None:
        """Make buffers and flags what they were when this object was made; set gradients aside."""
        for module, training in self._modules:
            # Only where it changed: a module may refuse to have attributes set.
            if module.training != training:
                module.training = training
        for buffer in self._buffers:
            buffer.restore()
        for parameter, requires_grad, _ in self._parameters:
            if parameter.requires_grad != requires_grad:
                parameter.requires_grad = requires_grad
            parameter.grad = None

    def restore_with_gradients(self) -> None:
        """The state the user left: what `restore` does, and the gradients as they were."""
        try:
            self.restore()
        finally:
            for parameter, _, gradient in self._parameters:
                parameter.grad = gradient
            self._versions.close()


@dataclass(frozen=True)
class _Buffer:
    """One entry of a module's buffers, and a copy of its value; both None where it has none."""

    module: nn.Module
    name: str
    tensor: torch.Tensor | None
    shape: tuple[int, ...] | None
    value: torch.Tensor | None

    @classmethod
    def of(cls, module: nn.Module, name: str, tensor: torch.Tensor | None) -> _Buffer:
        if tensor is None:
            return cls(module, name, None, None, None)
        return cls(module, name, tensor, _shape(tensor), _unrepeated(tensor.detach()).clone())

    def restore(self) -> None:
        if self.tensor is not None and self.value is not None:
            # Leaving inference mode switches gradients on, so they are switched off inside.
            with torch.inference_mode(self.tensor.is_inference()), torch.no_grad():
                if self.shape is not None and self.shape != _shape(self.tensor):
                    self.tensor.data = self.value.expand(self.shape).clone()
                else:
                    _unrepeated(self.tensor.detach()).copy_(self.value)
        buffers_of(self.module)[self.name] = self.tensor


def _shape(tensor: torch.Tensor) -> tuple[int, ...] | None:
    """None for a nested tensor, which has no shape."""
    return None if tensor.is_nested else tuple(tensor.shape)


def _unrepeated(tensor: torch.Tensor) -> torch.Tensor:
    """One of the copies that `expand` shows of the same memory, which cannot be written to as a
    whole.
    """
    if tensor.is_nested or tensor.layout is not torch.strided:
        return tensor
    for dim, (size, stride) in enumerate(zip(tensor.shape, tensor.stride(), strict=True)):
        if stride == 0 and size > 1:
            tensor = tensor.narrow(dim, 0, 1)
    return tensor


def _refuse_lazy(model: nn.Module) -> None:
    lazy = [
        name for name, one in (*model.named_parameters(), *model.named_buffers()) if is_lazy(one)
    ]
    if lazy:
        raise TargetError(
            f"{type(model).__name__} has parameters without a shape ({', '.join(lazy[:3])}"
            f"{', …' if len(lazy) > 3 else ''}) until its first call: call it once before "
            "measuring it"
        )
