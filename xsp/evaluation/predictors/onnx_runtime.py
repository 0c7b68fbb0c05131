"""ONNX Runtime on the CPU or an NVIDIA GPU: an ONNX file, or a module exported to one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from xsp.errors import EvaluationError
from xsp.evaluation.extra import needed
from xsp.evaluation.foreign_code import guarded
from xsp.evaluation.predictors import settings
from xsp.evaluation.predictors.onnx_export import exported
from xsp.evaluation.predictors.predictor import MODULE, ONNX, Batch, LoadedModel, Outputs

_OPTIONS: settings.Allowed = {
    "threads": settings.THREADS,
    "optimization": ("none", "basic", "extended", "all"),
    "batch": settings.BATCH,
}
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class OnnxRuntime:
    """Runs ONNX. A module is exported by torch.onnx for any batch size, or for the option `batch`;
    what was exported is kept and used again.

    Options: `threads` (within an operator), `optimization` (of the graph; all by default), `batch`.
    """

    name = "onnxruntime"
    formats = frozenset({MODULE, ONNX})

    def __init__(self) -> None:
        self._session: Any = None
        self._model: LoadedModel | None = None
        self.undeclared: tuple[str, ...] = ()
        """Outputs of the model that the manifest does not name."""

    def load(self, model: LoadedModel) -> None:
        """Make a session. Raises EvaluationError for a model that it cannot run, and where the
        build of ONNX Runtime has no CUDA.
        """
        with needed("the predictor onnxruntime"):
            import onnxruntime
        given = settings.read(self.name, model.options, _OPTIONS)
        self.unload()
        provider = _provider(onnxruntime, model.device)
        with guarded(f"onnxruntime cannot load {model.name}"):
            if model.path is not None:
                self._session = _session(onnxruntime, model.path, provider, given)
            else:
                with exported(model, given) as path:
                    self._session = _session(onnxruntime, path, provider, given)
        self._model = model
        self._check_names(model)

    def predict(self, batch: Batch) -> Outputs:
        """The outputs for these samples, on the host."""
        if self._model is None:
            raise EvaluationError("onnxruntime has no model loaded; call load first")
        names = [each.name for each in self._model.outputs]
        found = self._session.run(
            names, {each.name: batch[each.name] for each in self._model.inputs}
        )
        return dict(zip(names, found, strict=True))

    def unload(self) -> None:
        """Let go of the session."""
        self._session = self._model = None

    def version(self) -> str:
        """Of ONNX Runtime."""
        import onnxruntime

        return str(onnxruntime.__version__)

    def target(self, batch: Batch) -> tuple[Callable[..., Any], tuple[Any, ...]] | None:
        """Nothing: layers of ONNX Runtime are not traced."""
        del batch
        return None

    def _check_names(self, model: LoadedModel) -> None:
        _same("inputs", [each.name for each in self._session.get_inputs()], model.inputs, model)
        there = [each.name for each in self._session.get_outputs()]
        declared = {each.name for each in model.outputs}
        self.undeclared = tuple(repr(name) for name in there if name not in declared)
        missing = [each.name for each in model.outputs if each.name not in there]
        if missing:
            self.unload()
            raise EvaluationError(
                f"{model.name} has no output {missing[0]!r}; it has {', '.join(sorted(there))}"
            )


def _same(what: str, there: Sequence[str], given: Sequence[Any], model: LoadedModel) -> None:
    wanted = [each.name for each in given]
    if sorted(there) != sorted(wanted):
        raise EvaluationError(
            f"{model.name} has the {what} {', '.join(there)}, but its manifest says "
            f"{', '.join(wanted)}"
        )


def _provider(onnxruntime: Any, device: str) -> Any:
    kind, _, index = device.partition(":")
    name = _PROVIDERS[kind]
    if name not in onnxruntime.get_available_providers():
        raise EvaluationError(
            f"this build of ONNX Runtime has no {name}; install onnxruntime-gpu in place of "
            "onnxruntime, or use the device cpu"
        )
    return (name, {"device_id": int(index or 0)}) if kind == "cuda" else name


def _session(onnxruntime: Any, path: Path, provider: Any, given: dict[str, Any]) -> Any:
    levels = onnxruntime.GraphOptimizationLevel
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = {
        "none": levels.ORT_DISABLE_ALL,
        "basic": levels.ORT_ENABLE_BASIC,
        "extended": levels.ORT_ENABLE_EXTENDED,
        "all": levels.ORT_ENABLE_ALL,
    }[given.get("optimization", "all")]
    if "threads" in given:
        options.intra_op_num_threads = given["threads"]
    options.log_severity_level = 3
    made = onnxruntime.InferenceSession(str(path), options, providers=[provider])
    wanted = provider[0] if isinstance(provider, tuple) else provider
    if made.get_providers()[0] != wanted:
        raise EvaluationError(
            f"ONNX Runtime fell back from {wanted} to {made.get_providers()[0]}: its CUDA "
            "libraries are missing or do not fit; its log has the reason"
        )
    return made
