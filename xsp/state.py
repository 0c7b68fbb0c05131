"""Saving what a re-run would change and putting it back: random state, buffers, gradients, training flags."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn


@dataclass(frozen=True)
class RandomState:
    """State of every random generator a model can draw from."""

    python: tuple[Any, ...]
    numpy: Any
    cpu: torch.Tensor
    cuda: tuple[torch.Tensor, ...]

    @classmethod
    def current(cls) -> RandomState:
        """Copy the generators' states; CUDA generators only where CUDA is in use, so that it is not woken up."""
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
        return cls(random.getstate(), np.random.get_state(), torch.get_rng_state(), tuple(cuda))

    def restore(self) -> None:
        """Put the generators back."""
        random.setstate(self.python)
        np.random.set_state(self.numpy)
        torch.set_rng_state(self.cpu)
        if self.cuda:
            torch.cuda.set_rng_state_all(list(self.cuda))


_preserving_version: Callable[[torch.Tensor], AbstractContextManager[None]]
_preserving_version = torch.autograd.grad_mode._unsafe_preserve_version_counter


class ModelState:
    """Buffers, gradients and training flags of a model, restorable any number of times.

    Values of buffers are copied once and copied back whole: batch normalisation and custom kernels write to buffers
    without raising their version counters, so no counter tells which were written. Gradients are set aside rather
    than copied: re-runs find none and accumulate into new tensors, which are dropped.
    """

    def __init__(self, model: nn.Module) -> None:
        self._modules = [(module, module.training) for module in model.modules()]
        self._gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
        self._buffers = [
            (module, name, buffer, buffer.detach().clone())
            for module in model.modules()
            for name, buffer in module._buffers.items()
            if buffer is not None
        ]
        # A graph that the user still holds may have saved a buffer: with its value, its version must come back,
        # or autograd would take it for modified.
        self._versions = ExitStack()
        for _, _, buffer, _ in self._buffers:
            if not buffer.is_inference():
                self._versions.enter_context(_preserving_version(buffer))

    def restore(self) -> None:
        """Make buffers and training flags what they were when this object was made; set gradients aside."""
        for module, training in self._modules:
            module.training = training
        with torch.no_grad():
            self._restore_buffers()
        for parameter, _ in self._gradients:
            parameter.grad = None

    def restore_with_gradients(self) -> None:
        """The state the user left: what `restore` does, and the gradients as they were."""
        self.restore()
        for parameter, gradient in self._gradients:
            parameter.grad = gradient
        self._versions.close()

    def _restore_buffers(self) -> None:
        for module, name, buffer, value in self._buffers:
            with torch.inference_mode(buffer.is_inference()):
                buffer.copy_(value)
            module._buffers[name] = buffer
