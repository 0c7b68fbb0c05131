"""A gathered manifest made ready to run: its model in its runtime, its steps, its samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from packaging.specifiers import SpecifierSet

from xsp.errors import EvaluationError
from xsp.evaluation.artifacts.code import REFUSED, function_of
from xsp.evaluation.artifacts.gathering import file_of
from xsp.evaluation.artifacts.store import ArtifactStore
from xsp.evaluation.foreign_code import guarded
from xsp.evaluation.manifest.model import Manifest, Tensor
from xsp.evaluation.manifest.source import Framework, ModelFile, PythonModel
from xsp.evaluation.pipeline.datasets import Samples, load_samples
from xsp.evaluation.pipeline.processing import Processing
from xsp.evaluation.predictors import predictor as contract
from xsp.evaluation.predictors.predictor import Batch, LoadedModel, Outputs, Predictor
from xsp.evaluation.predictors.registry import predictor


@dataclass(frozen=True)
class Assembled:
    """What answers queries. Leaving it as a context unloads the model."""

    manifest: Manifest
    predictor: Predictor
    processing: Processing
    samples: Samples

    @property
    def several(self) -> bool:
        """Whether the model takes several samples at once: an input has an axis for them."""
        return any(each.shape[:1] == ("batch",) for each in self.manifest.model.inputs)

    def answer(self, rows: Sequence[int]) -> Any:
        """Predictions for the samples with these indices, from the raw rows on."""
        batch = self.processing.batch([self.samples.row(each) for each in rows])
        return self.processing.predictions(self.predict(batch), len(rows))

    def predict(self, batch: Batch) -> Outputs:
        """The model's outputs. Raises EvaluationError for whatever it raises."""
        model = self.manifest.model
        with guarded(f"{model.name} {model.version} fails on {self.manifest.runtime.predictor}"):
            return self.predictor.predict(batch)

    def __enter__(self) -> Assembled:
        return self

    def __exit__(self, *_: object) -> None:
        self.predictor.unload()


@dataclass(frozen=True)
class Planned:
    """What a gathered manifest names, checked, but for its model, which is not loaded."""

    manifest: Manifest
    predictor: Predictor
    model: LoadedModel
    processing: Processing
    samples: Samples

    def load(self) -> Assembled:
        """Load the model. Raises EvaluationError where its runtime cannot run it."""
        self.predictor.load(self.model)
        return Assembled(self.manifest, self.predictor, self.processing, self.samples)


def plan(manifest: Manifest, store: ArtifactStore, *, allow_code: bool) -> Planned:
    """Check everything that a gathered manifest names.

    Raises EvaluationError for code that is not allowed, a version that does not fit, a predictor
    that there is not or that does not run models of the kind, and samples that do not fit.
    """
    check_framework(manifest.model.framework)
    runtime = predictor(manifest.runtime.predictor)
    model = _loaded_model(manifest, store, allow_code=allow_code)
    if model.format not in runtime.formats:
        raise EvaluationError(
            f"the predictor {runtime.name!r} runs {', '.join(sorted(runtime.formats))}, but "
            f"{model.name} comes as {model.format}; choose another predictor"
        )
    processing = Processing(manifest, store, allow_code=allow_code)
    samples = load_samples(manifest, store, allow_code=allow_code)
    return Planned(manifest, runtime, model, processing, samples)


def assemble(manifest: Manifest, store: ArtifactStore, *, allow_code: bool) -> Assembled:
    """`plan`, and load the model."""
    return plan(manifest, store, allow_code=allow_code).load()


def check_framework(framework: Framework) -> None:
    """Raises EvaluationError where what the model needs is not installed in a version that fits."""
    if not framework.version:
        return
    try:
        there = version(framework.name)
    except PackageNotFoundError as error:
        raise EvaluationError(
            f"the model needs {framework.name} {framework.version}, which is not installed: pip "
            f'install "{framework.name}{framework.version}"'
        ) from error
    if not SpecifierSet(framework.version).contains(there, prereleases=True):
        raise EvaluationError(
            f"the model needs {framework.name} {framework.version}, but {there} is installed: pip "
            f'install "{framework.name}{framework.version}"'
        )


def _loaded_model(manifest: Manifest, store: ArtifactStore, *, allow_code: bool) -> LoadedModel:
    model = manifest.model
    common: dict[str, Any] = {
        "name": f"{model.name} {model.version}",
        "inputs": [_tensor(each) for each in model.inputs],
        "outputs": [_tensor(each) for each in model.outputs],
        "device": manifest.runtime.device,
        "options": manifest.runtime.options,
        "exports": store.folder / "exports",
    }
    source = model.source
    if isinstance(source, PythonModel):
        make = _maker(source, store, allow_code=allow_code)
        return LoadedModel(format=contract.MODULE, make=make, **common)
    if source.kind == contract.EXPORTED and not allow_code:
        # torch.export.load reads pickles, and loads compiled libraries where a file has some.
        raise EvaluationError(REFUSED.format(what=f"an exported program ({common['name']})"))
    return LoadedModel(format=source.kind, path=_model_file(source, store), **common)


def _model_file(source: ModelFile, store: ArtifactStore) -> Any:
    path = file_of(source.artifact, store)
    if not source.beside:
        return path
    names = {name: file_of(each, store).name for name, each in source.beside.items()}
    return store.beside({"model": path.name, **names}) / "model"


def _maker(source: PythonModel, store: ArtifactStore, *, allow_code: bool) -> Any:
    function = function_of(source.make, store, allow_code=allow_code)
    arguments = dict(source.make.arguments)

    def make() -> Any:
        module = function(**arguments)
        if source.weights is not None:
            from xsp.evaluation.predictors.torch_runtime import state_dict

            module.load_state_dict(state_dict(file_of(source.weights, store)))
        return module

    return make


def _tensor(given: Tensor) -> contract.Tensor:
    sizes = tuple(size if isinstance(size, int) else None for size in given.shape)
    return contract.Tensor(given.name, given.dtype, sizes)
