"""Lightning: `Trainer(callbacks=[XspCallback()])` profiles the training along."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from xsp.integrations.following import Followed, Following


class XspCallback(Followed, pl.Callback):
    """Profiles `fit` along: each step of its optimizers is one, with the batches that it
    accumulates.

    Args:
        path: where the capture is written at the end; None writes none.
        **options: those of `xsp.profile`, such as `budget_s`.

    """

    def __init__(self, path: str | Path | None = None, **options: Any) -> None:
        self._following = Following(path, **options)
        self._steps = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin."""
        self._steps = trainer.global_step
        self._following.begin(pl_module, trainer.optimizers)

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any, **__: Any) -> None:
        """A batch, which ends a step unless its gradients are accumulated."""
        if trainer.global_step != self._steps:
            self._steps = trainer.global_step
            self._following.step()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """End."""
        self._following.end()

    def on_exception(self, *told: Any, **named: Any) -> None:
        """End; Ctrl-C keeps complete rounds."""
        self._following.end(named.get("exception", told[-1] if told else None))
