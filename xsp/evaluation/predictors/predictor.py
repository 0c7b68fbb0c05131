"""The protocol of what runs a model, and what it is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Batch = Mapping[str, NDArray[Any]]
"""By name of the model's input, an array whose first axis is the samples."""
Outputs = Mapping[str, NDArray[Any]]
"""By name of the model's output, an array whose first axis is the samples."""

MODULE, TORCHSCRIPT, EXPORTED, ONNX = "module", "torchscript", "exported", "onnx"
"""What a model comes as: Python that makes an `nn.Module`, or a file of one of three formats."""


@dataclass(frozen=True)
class Tensor:
    """An input or output. A size is a number, or None where it varies; the first one is that of
    the batch where it is None.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]

    def example(self, samples: int) -> NDArray[Any]:
        """Zeros for this many samples; other sizes that vary are 1."""
        first = [samples if size is None else size for size in self.shape[:1]]
        rest = [1 if size is None else size for size in self.shape[1:]]
        return np.zeros((*first, *rest), self.dtype)


@dataclass(frozen=True)
class LoadedModel:
    """A model whose files are here and checked.

    Args:
        name: of the model, with its version.
        format: `module`, `torchscript`, `exported` or `onnx`.
        path: the file of the model; None for a module.
        make: makes the module, in evaluation mode and with its weights; None for a file.
        inputs: in the order in which a module takes them.
        outputs: in the order in which a module returns them.
        device: `cpu`, `cuda` or `cuda:N`.
        options: of the runtime, as the manifest has them.
        exports: a folder that keeps what a runtime makes of the model; None to keep nothing.

    """

    name: str
    format: str
    inputs: Sequence[Tensor]
    outputs: Sequence[Tensor]
    path: Path | None = None
    make: Callable[[], Any] | None = None
    device: str = "cpu"
    options: Mapping[str, Any] = field(default_factory=dict)
    exports: Path | None = None


@runtime_checkable
class Predictor(Protocol):
    """Runs one model at a time. Made without arguments; used by one thread."""

    name: str
    """Such as "torch" or "onnxruntime"; unique."""
    formats: frozenset[str]
    """The formats of models that it loads."""

    def load(self, model: LoadedModel) -> None:
        """Make ready to predict. Raises EvaluationError for a model that it cannot run."""

    def predict(self, batch: Batch) -> Outputs:
        """The outputs for these samples; back when they are computed, on a GPU too. The batch's
        memory may be used again afterwards.
        """

    def unload(self) -> None:
        """Let go of the model and its memory. Unloading twice is harmless."""

    def version(self) -> str:
        """Of the runtime, such as "2.11.0"."""

    def target(self, batch: Batch) -> tuple[Callable[..., Any], tuple[Any, ...]] | None:
        """What `xsp.measure` can trace layers of, and its arguments for this batch; None where the
        runtime is not PyTorch, so that only the whole call can be traced.
        """
