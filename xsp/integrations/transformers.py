"""Hugging Face's Trainer: `Trainer(..., callbacks=[XspCallback()])` profiles the training along."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from xsp.integrations.following import Followed, Following
from xsp.machine.dynamo_internals import compiled_from


class XspCallback(Followed, TrainerCallback):
    """Profiles `train` along: a step of the Trainer, with the batches that it accumulates, is one.

    Args:
        path: where the capture is written at the end; None writes none.
        **options: those of `xsp.profile`, such as `budget_s`.

    """

    def __init__(self, path: str | Path | None = None, **options: Any) -> None:
        self._following = Following(path, **options)

    def on_train_begin(self, *_: Any, model: Any = None, optimizer: Any = None, **__: Any) -> None:
        """Begin. With `torch_compile=True` the model is called through what that gave."""
        compiled = compiled_from(model)
        called = model if compiled is None else compiled
        self._following.begin(called, [] if optimizer is None else [optimizer])

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """A step has ended, with its optimizer's and scheduler's."""
        self._following.step()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """End."""
        self._following.end()
