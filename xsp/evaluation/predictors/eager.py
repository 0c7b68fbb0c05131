"""PyTorch as it is, one operator after another."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from xsp.evaluation.predictors import settings
from xsp.evaluation.predictors.predictor import MODULE, LoadedModel
from xsp.evaluation.predictors.torch_runtime import TorchRuntime


class Eager(TorchRuntime):
    """Runs the module. Option beside the common ones: `channels_last` for images."""

    name = "torch"
    formats = frozenset({MODULE})
    options: ClassVar[settings.Allowed] = {"channels_last": bool}

    def _made(self, model: LoadedModel) -> Any:
        del model
        module = self.module()
        if self._given.get("channels_last"):
            return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # torch has it
        return module
