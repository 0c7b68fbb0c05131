"""What the PyTorch runtimes have in common: a callable on tensors, without gradients."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from contextlib import suppress
from typing import Any, ClassVar

import torch

from xsp.errors import EvaluationError
from xsp.evaluation.foreign_code import guarded
from xsp.evaluation.predictors import settings
from xsp.evaluation.predictors.predictor import Batch, LoadedModel, Outputs
from xsp.evaluation.predictors.tensors import to_arrays, to_tensors, undeclared

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
COMMON: settings.Allowed = {"threads": settings.THREADS, "dtype": tuple(DTYPES), "tf32": bool}


class TorchRuntime:
    """Base of the predictors on PyTorch; each says what it calls.

    Options: `threads` (of PyTorch's pool on the CPU, put back by `unload`), `dtype` (of parameters
    and floating-point inputs), `tf32` (products of float32 on Tensor Cores, put back by `unload`).
    """

    name: ClassVar[str]
    formats: ClassVar[frozenset[str]]
    options: ClassVar[settings.Allowed] = {}

    def __init__(self) -> None:
        self._model: LoadedModel | None = None
        self._call: Any = None
        self._before: dict[str, Any] = {}
        self.weights_bytes: int | None = None
        """Of the parameters and buffers of the module that was loaded last."""
        self.undeclared: tuple[str, ...] | None = None
        """Outputs of the model that the manifest does not name; None before the first call."""

    def load(self, model: LoadedModel) -> None:
        """Make ready to predict. Raises EvaluationError for a model that it cannot run."""
        self.prepare(model)
        try:
            with (
                guarded(f"{self.name} cannot load {model.name}"),
                torch.inference_mode(mode=False),
                torch.no_grad(),
            ):
                self._call = self._made(model)
        except EvaluationError:
            self.unload()
            raise

    def prepare(self, model: LoadedModel) -> None:
        """Take a model and its options without making anything of it yet; `unload` lets it go."""
        given = settings.read(self.name, model.options, {**COMMON, **self.options})
        device = _device(model.device)
        self.unload()
        self._before = {
            "threads": torch.get_num_threads(),
            "tf32": torch.backends.cuda.matmul.allow_tf32,
            "cudnn": torch.backends.cudnn.allow_tf32,
        }
        self._given, self._device, self._model = given, device, model
        self.undeclared = None
        self._dtype = DTYPES.get(given.get("dtype", ""))
        try:
            self._set()
        except EvaluationError:
            self.unload()
            raise

    def predict(self, batch: Batch) -> Outputs:
        """The outputs for these samples, on the host."""
        model = self._loaded()
        tensors = to_tensors(batch, model.inputs, self._device, self._dtype)
        with torch.no_grad():
            returned = self._call(*tensors)
        if self.undeclared is None:
            self.undeclared = undeclared(returned, model.outputs)
        return to_arrays(returned, model.outputs, model.name)

    def unload(self) -> None:
        """Let go of the model, and put back what the options changed."""
        self._call = self._model = None
        before, self._before = self._before, {}
        if before:
            torch.set_num_threads(before["threads"])
            torch.backends.cuda.matmul.allow_tf32 = before["tf32"]
            torch.backends.cudnn.allow_tf32 = before["cudnn"]
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()

    def version(self) -> str:
        """Of PyTorch, with its build."""
        return str(torch.__version__)

    def target(self, batch: Batch) -> tuple[Callable[..., Any], tuple[Any, ...]] | None:
        """The module and its inputs on the device."""
        model = self._loaded()
        return self._call, tuple(to_tensors(batch, model.inputs, self._device, self._dtype))

    def example(self, samples: int = 2) -> tuple[torch.Tensor, ...]:
        """Inputs of zeros, as the model takes them; two samples tell exporters that the batch
        varies.
        """
        model = self._loaded()
        batch = {each.name: each.example(samples) for each in model.inputs}
        return tuple(to_tensors(batch, model.inputs, self._device, self._dtype))

    def module(self) -> torch.nn.Module:
        """The model's own module, on the device, in evaluation mode."""
        model = self._loaded()
        made = None if model.make is None else model.make()
        if not isinstance(made, torch.nn.Module):
            raise EvaluationError(
                f"{model.name} was made as a {type(made).__name__}; its function must return an "
                "nn.Module"
            )
        ready = made.eval().to(self._device, self._dtype)
        for each in ready.parameters():  # one by one: a ScriptModule has no requires_grad_
            each.requires_grad = False
        tensors = [*ready.parameters(), *ready.buffers()]
        self.weights_bytes = sum(each.numel() * each.element_size() for each in tensors)
        return ready

    def _made(self, model: LoadedModel) -> Any:
        raise NotImplementedError

    def _loaded(self) -> LoadedModel:
        if self._model is None:
            raise EvaluationError(f"{self.name} has no model loaded; call load first")
        return self._model

    def _set(self) -> None:
        if "threads" in self._given:
            torch.set_num_threads(self._given["threads"])
        if "tf32" in self._given:
            torch.backends.cuda.matmul.allow_tf32 = self._given["tf32"]
            torch.backends.cudnn.allow_tf32 = self._given["tf32"]


def _device(name: str) -> torch.device:
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise EvaluationError(
            "the device is cuda, but PyTorch finds no GPU here; run it on another machine, or "
            "with the device cpu"
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise EvaluationError(f"there is no {name}: this machine has {torch.cuda.device_count()}")
    return device


def state_dict(path: Any) -> dict[str, Any]:
    """Weights from a file. Only tensors and plain values are read: nothing in the file runs.

    Raises EvaluationError for a pickle that would run code.
    """
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise EvaluationError(
            f"the weights {str(path)!r} are not a state dict of plain tensors: reading them would "
            "run what the file says, or it is damaged; save model.state_dict() with torch.save"
        ) from error
    if not isinstance(found, dict):
        raise EvaluationError(f"the weights {str(path)!r} are a {type(found).__name__}, not a dict")
    return found


def forget_compiled() -> None:
    """Let torch.compile forget what it compiled in this process."""
    with suppress(AttributeError):
        torch.compiler.reset()
