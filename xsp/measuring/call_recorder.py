"""Watching how a model is called inside a `with` block, so that the calls can be made again
afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from xsp.doubts import Doubt, Slug
from xsp.errors import NothingRecordedError
from xsp.levels.layer.tensors import versions
from xsp.measuring.state import RandomState
from xsp.measuring.target import Ambient, Call, Target

MAX_CALLS = 16
"""Calls kept of one block. Their inputs stay in memory until the block's profile is made."""


class CallRecorder:
    """Records the outermost calls of one model: arguments by reference, and the modes they were
    made under.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._calls: list[Call] = []
        self._versions: list[list[int]] = []
        self._left_out = 0
        self._captured = 0
        self._failed = 0
        self._depth = 0
        self._kept = self._returned = False
        self._handles: list[RemovableHandle] = []
        self.random: RandomState | None = None
        """State of the random generators at the first recorded call."""

    def start(self) -> None:
        """Hook the model."""
        self._handles = [
            # Called on the class: TorchScript modules have hooks, but refuse to be asked for them.
            nn.Module.register_forward_pre_hook(
                self._model, self._before, with_kwargs=True, prepend=True
            ),
            nn.Module.register_forward_hook(self._model, self._on_return),
            nn.Module.register_forward_hook(self._model, self._after, always_call=True),
        ]

    def stop(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _before(self, _module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self._depth += 1
        if self._depth > 1:
            return
        self._kept = self._returned = False
        if torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing():  # type: ignore[no-untyped-call]
            self._captured += 1
        elif len(self._calls) == MAX_CALLS:
            self._left_out += 1
        else:
            if not self._calls:
                self.random = RandomState.current()
            self._calls.append(Call(self._model, args, dict(kwargs), Ambient.current()))
            self._versions.append(versions((args, kwargs)))
            self._kept = True

    def _on_return(self, *_: Any) -> None:
        self._returned = True

    def _after(self, *_: Any) -> None:
        self._depth -= 1
        if self._depth == 0 and self._kept and not self._returned:
            # The block handled the exception; every re-run would end the profile with it.
            self._calls.pop()
            self._versions.pop()
            self._failed += 1

    def target(self) -> Target:
        """The recorded calls. Raises NothingRecordedError if there are none to run again."""
        name = type(self._model).__name__
        if not self._calls and self._captured:
            raise NothingRecordedError(
                f"{name} was called {self._captured} times inside the profiled block, each time "
                "under CUDA graph "
                "capture, which cannot be run again; call the model outside the capture, or "
                "profile the replay with "
                "xsp.measure(graph.replay)"
            )
        if not self._calls and self._failed:
            raise NothingRecordedError(
                f"{name} was called {self._failed} times inside the profiled block and raised each "
                "time; "
                "profile a call that returns"
            )
        if not self._calls:
            raise NothingRecordedError(
                f"{name} was never called inside the profiled block; call that very object (not a "
                "copy, and not "
                "only its submodules), or use xsp.measure(callable) for other code"
            )
        return Target(name, tuple(self._calls), self._model, tuple(self._notes()))

    def _notes(self) -> list[Doubt]:
        notes = []
        kept = len(self._calls)
        if self._left_out:
            made = kept + self._left_out
            notes.append(Doubt.of(Slug.LEFT_OUT_CALLS, profiled=kept, made=made))
        if self._failed:
            notes.append(Doubt.of(Slug.LEFT_OUT_CALLS, failed=self._failed))
        if self._captured:
            notes.append(Doubt.of(Slug.LEFT_OUT_CALLS, captured=self._captured))
        changed = sum(
            before != versions((call.args, call.kwargs))
            for before, call in zip(self._versions, self._calls, strict=True)
        )
        if changed:
            notes.append(Doubt.of(Slug.MODIFIED_INPUTS, calls=changed))
        return notes
