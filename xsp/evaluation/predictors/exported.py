"""torch.export: a file of it, or a module exported."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from xsp.evaluation.predictors import settings
from xsp.evaluation.predictors.predictor import EXPORTED, MODULE, LoadedModel
from xsp.evaluation.predictors.torch_runtime import TorchRuntime


class Exported(TorchRuntime):
    """Runs an exported program. A module is exported for any batch size, or for the one of the
    option `batch`.
    """

    name = "torch-export"
    formats = frozenset({MODULE, EXPORTED})
    options: ClassVar[settings.Allowed] = {"batch": settings.BATCH}

    def _made(self, model: LoadedModel) -> Any:
        if model.path is not None:
            # By file: torch.export.load goes by the ending of a name.
            with model.path.open("rb") as file:
                return torch.export.load(file).module().to(self._device)
        return self.program(self.module(), model).module()

    def program(self, module: torch.nn.Module, model: LoadedModel) -> torch.export.ExportedProgram:
        """The module as a graph of ATen operators."""
        fixed = self._given.get("batch")
        shapes = None if fixed else batch_varies(model)
        return torch.export.export(
            module, self.example(fixed or 2), dynamic_shapes=shapes, strict=False
        )


def batch_varies(model: LoadedModel) -> tuple[dict[int, Any], ...]:
    """For torch.export: the first axis of each input that has one for the batch."""
    batch = torch.export.Dim("batch", min=1)
    return tuple({0: batch} if each.shape[:1] == (None,) else {} for each in model.inputs)
