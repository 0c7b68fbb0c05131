"""PyTorch with torch.compile."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from xsp.evaluation.predictors import settings
from xsp.evaluation.predictors.predictor import MODULE, LoadedModel
from xsp.evaluation.predictors.torch_runtime import TorchRuntime, forget_compiled


class Compiled(TorchRuntime):
    """Runs the compiled module; compiling happens at the first call of each batch size, or at the
    second where `dynamic` is left out, before anything is timed.

    Options beside the common ones: `backend`, `mode` and `dynamic` of torch.compile.
    """

    name = "torch-compile"
    formats = frozenset({MODULE})
    options: ClassVar[settings.Allowed] = {"backend": str, "mode": str, "dynamic": bool}

    def _made(self, model: LoadedModel) -> Any:
        del model
        given = {name: self._given[name] for name in self.options if name in self._given}
        return torch.compile(self.module(), **given)

    def unload(self) -> None:
        """Let go of the model and of what was compiled for it."""
        if self._call is not None:
            forget_compiled()
        super().unload()
