"""Samples as rows over named columns, from what a manifest says of its data set."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from xsp.errors import EvaluationError
from xsp.evaluation.artifacts.code import function_of
from xsp.evaluation.artifacts.gathering import file_of
from xsp.evaluation.artifacts.store import ArtifactStore
from xsp.evaluation.foreign_code import guarded, told
from xsp.evaluation.manifest.dataset import Arrays, Generated, Random
from xsp.evaluation.manifest.model import Input, Manifest

_VARYING = 16
"""What random data has for a size that varies."""


@dataclass(frozen=True)
class Samples:
    """Columns of one length."""

    columns: Mapping[str, Sequence[Any]]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def row(self, index: int) -> dict[str, Any]:
        """One sample. Raises IndexError for one that is not there."""
        return {name: values[index] for name, values in self.columns.items()}


def load_samples(manifest: Manifest, store: ArtifactStore, *, allow_code: bool) -> Samples:
    """The data set of a gathered manifest.

    Raises EvaluationError for a file that is none, for code that is not allowed or fails, and for
    columns that do not fit.
    """
    data = manifest.dataset
    if isinstance(data, Random):
        return _random(data, manifest.model.inputs)
    columns = (
        _arrays(data, store)
        if isinstance(data, Arrays)
        else _generated(data, store, allow_code=allow_code)
    )
    return _checked(columns, data.samples, manifest)


def _random(data: Random, inputs: Sequence[Input]) -> Samples:
    generator = np.random.default_rng(data.seed)
    columns: dict[str, Any] = {}
    for each in inputs:
        shape = [data.samples] + [
            size if isinstance(size, int) else _VARYING for size in each.shape[1:]
        ]
        _check_memory(each.name, shape)
        whole = np.issubdtype(np.dtype(each.dtype), np.integer) or each.dtype == "bool"
        values = (
            generator.integers(int(data.low), max(int(data.high), int(data.low) + 1), shape)
            if whole
            else generator.uniform(data.low, data.high, shape)
        )
        columns[each.column or each.name] = values.astype(each.dtype)
    return Samples(columns)


def _check_memory(name: str, shape: Sequence[int]) -> None:
    wanted = math.prod(shape) * np.dtype(np.float64).itemsize
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if wanted > there:
        raise EvaluationError(
            f"random values of the input {name!r} in the shape {list(shape)} take "
            f"{wanted / 2**30:.4g} GiB of memory, but this machine has {there / 2**30:.4g}; ask "
            "for fewer samples (dataset.samples)"
        )


def _arrays(data: Arrays, store: ArtifactStore) -> dict[str, Any]:
    path = file_of(data.artifact, store)
    try:
        found = np.load(path, allow_pickle=False)
        if isinstance(found, np.ndarray):
            raise ValueError("it is one array, a .npy file")
        with found:
            return {name: found[name] for name in found.files}
    except Exception as error:  # a damaged header can raise anything, MemoryError too
        raise EvaluationError(
            f"the data set {str(path)!r} is not a .npz file of plain arrays that fit into memory "
            f"({told(error)}); pickled objects are refused, since reading them runs code"
        ) from error


def _generated(data: Generated, store: ArtifactStore, *, allow_code: bool) -> dict[str, Any]:
    make = function_of(data.make, store, allow_code=allow_code)
    with guarded(f"the data set's function {data.make.function!r} failed"):
        found = make(**data.make.arguments)
    if not isinstance(found, Mapping):
        raise EvaluationError(
            f"{data.make.function!r} returned a {type(found).__name__}; it must return a mapping "
            "from column to values"
        )
    return dict(found)


def _checked(columns: dict[str, Any], first: int | None, manifest: Manifest) -> Samples:
    lengths = {name: _length(name, values) for name, values in columns.items()}
    if len(set(lengths.values())) != 1 or 0 in lengths.values():
        raise EvaluationError(
            f"the data set's columns must have one length and a sample, not {lengths or 'nothing'}"
        )
    for name in _wanted(manifest):
        if name not in columns:
            raise EvaluationError(
                f"the data set has no column {name!r}; it has {', '.join(sorted(columns))}"
            )
    length = next(iter(lengths.values()))
    if first is not None and first > length:
        raise EvaluationError(f"the data set has {length} samples, not {first}")
    if first is not None:
        columns = {name: values[:first] for name, values in columns.items()}
    return Samples(columns)


def _length(name: str, values: Any) -> int:
    try:
        return len(values)
    except TypeError as error:
        raise EvaluationError(
            f"the data set's column {name!r} is a single {type(values).__name__}; a column has a "
            "value for each sample"
        ) from error


def _wanted(manifest: Manifest) -> list[str]:
    targets = [metric.target for metric in manifest.metrics.accuracy]
    if manifest.model.preprocess is not None:
        return targets
    return [each.column or each.name for each in manifest.model.inputs] + targets
