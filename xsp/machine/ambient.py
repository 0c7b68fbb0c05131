"""The modes of a thread that decide what its calls compute."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

_AUTOCAST_DEVICES = ("cuda", "cpu")


@dataclass(frozen=True)
class Ambient:
    """The thread's grad, inference and autocast modes, so that a re-run computes what the call
    computed.
    """

    grad: bool
    inference: bool
    autocast: Mapping[str, tuple[bool, torch.dtype]]
    autocast_cache: bool

    @classmethod
    def current(cls) -> Ambient:
        """Read the calling thread's modes."""
        return cls(
            grad=torch.is_grad_enabled(),
            inference=torch.is_inference_mode_enabled(),
            autocast={
                d: (torch.is_autocast_enabled(d), torch.get_autocast_dtype(d))
                for d in _AUTOCAST_DEVICES
            },
            autocast_cache=torch.is_autocast_cache_enabled(),
        )

    @contextlib.contextmanager
    def restored(self) -> Iterator[None]:
        """Run a block under these modes."""
        with contextlib.ExitStack() as stack:
            # inference_mode(False) inside a grad block is not neutral: it is entered only when it
            # changes something.
            if self.inference != torch.is_inference_mode_enabled():
                stack.enter_context(torch.inference_mode(self.inference))
            stack.enter_context(torch.set_grad_enabled(self.grad))
            for device, (enabled, dtype) in self.autocast.items():
                # Switching autocast off where it is off would still warn on machines without the
                # device.
                if enabled or torch.is_autocast_enabled(device):
                    stack.enter_context(torch.autocast(device, dtype, enabled, self.autocast_cache))
            yield
