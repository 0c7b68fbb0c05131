"""TorchScript: a file of it, or a module traced."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any, ClassVar

import torch

from xsp.errors import EvaluationError
from xsp.evaluation.predictors import settings
from xsp.evaluation.predictors.predictor import MODULE, TORCHSCRIPT, LoadedModel
from xsp.evaluation.predictors.torch_runtime import TorchRuntime


class TorchScript(TorchRuntime):
    """Runs TorchScript. A module is traced (torch.jit.trace) with two samples, or as many as the
    option `batch` says: what it computes from sizes in Python holds for these alone. One that is
    TorchScript already is taken as it is.

    Options beside the common ones: `batch`, `freeze` (torch.jit.freeze), `optimize`
    (torch.jit.optimize_for_inference).
    """

    name = "torchscript"
    formats = frozenset({MODULE, TORCHSCRIPT})
    options: ClassVar[settings.Allowed] = {
        "batch": settings.BATCH,
        "freeze": bool,
        "optimize": bool,
    }

    def _made(self, model: LoadedModel) -> Any:
        if model.path is not None:
            _check(model.path)
            script = torch.jit.load(str(model.path), map_location=self._device).eval()
        else:
            script = self._traced(self.module())
        if self._given.get("freeze"):
            script = torch.jit.freeze(script)
        if self._given.get("optimize"):
            script = torch.jit.optimize_for_inference(script)
        return script

    def _traced(self, module: torch.nn.Module) -> Any:
        if isinstance(module, torch.jit.ScriptModule):
            return module
        return torch.jit.trace(module, self.example(self._given.get("batch", 2)))


def _check(path: Path) -> None:
    """TorchScript is an archive with code of its own language, which cannot call Python."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any("/code/" in name for name in archive.namelist()):
                return
    raise EvaluationError(
        f"{str(path)!r} is not TorchScript: other files of torch.save are pickles, which can run "
        "code; save it with torch.jit.save"
    )
