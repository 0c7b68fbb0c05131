"""Rules that types cannot state: what one part of a manifest demands of another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from packaging.specifiers import InvalidSpecifier, SpecifierSet

from xsp.evaluation.manifest.dataset import Random
from xsp.evaluation.manifest.document import Path
from xsp.evaluation.manifest.judging import AccuracyMetric, TopK
from xsp.evaluation.manifest.model import Input, Manifest, Output
from xsp.evaluation.manifest.source import Code
from xsp.evaluation.manifest.steps import ARRAY, FILE, IMAGE, SCORES, Normalize, Step, Transpose

Fault = tuple[Path, str]
"""Where, and what is wrong there."""

_KINDS = {"encoded image": FILE, "image": IMAGE, "array": ARRAY}


def faults(manifest: Manifest) -> Iterator[Fault]:
    """Every rule that a manifest of right types breaks."""
    yield from _names(manifest)
    yield from _framework(manifest)
    yield from _batches(manifest)
    yield from _python_or_steps(manifest)
    for place, each in enumerate(manifest.model.inputs):
        yield from _input(each, ("model", "inputs", place))
    for place, out in enumerate(manifest.model.outputs):
        yield from _output(out, ("model", "outputs", place))
    for place, metric in enumerate(manifest.metrics.accuracy):
        yield from _accuracy(manifest, metric, ("metrics", "accuracy", place))
    yield from _one_of_each_metric(manifest)
    yield from _random(manifest)


def kind_of(output: Output) -> str:
    """What an output is after its steps: scores, probabilities or classes."""
    kind = SCORES
    for step in output.steps:
        kind = step.gives or kind
    return kind


def _names(manifest: Manifest) -> Iterator[Fault]:
    for part, tensors in (("inputs", manifest.model.inputs), ("outputs", manifest.model.outputs)):
        seen: set[str] = set()
        for place, each in enumerate(tensors):
            if each.name in seen:
                yield (
                    ("model", part, place, "name"),
                    f"is {each.name!r}, which an earlier one has already; names must differ",
                )
            seen.add(each.name)


def _framework(manifest: Manifest) -> Iterator[Fault]:
    text = manifest.model.framework.version
    try:
        SpecifierSet(text)
    except InvalidSpecifier:
        yield (
            ("model", "framework", "version"),
            f"must be a constraint such as '>=2.5,<3' (PEP 440), not {text!r}",
        )


def _batches(manifest: Manifest) -> Iterator[Fault]:
    for part, tensors in (("inputs", manifest.model.inputs), ("outputs", manifest.model.outputs)):
        for place, each in enumerate(tensors):
            if "batch" in each.shape[1:]:
                yield (
                    ("model", part, place, "shape"),
                    "has batch after the first place; the first axis is the samples",
                )


def _python_or_steps(manifest: Manifest) -> Iterator[Fault]:
    model = manifest.model
    for key, tensors in (("preprocess", model.inputs), ("postprocess", model.outputs)):
        if getattr(model, key) is not None and any(each.steps for each in tensors):
            yield (
                ("model", key),
                f"is Python beside built-in steps of {'in' if key == 'preprocess' else 'out'}puts; "
                "keep one of the two",
            )
    for key in ("preprocess", "postprocess"):
        yield from _pinned(getattr(model, key), ("model", key))


def _pinned(code: Code | None, path: Path) -> Iterator[Fault]:
    if code is not None and code.sha256 is not None and code.file is None:
        yield (
            (*path, "sha256"),
            f"is given for {code.function!r}, which is in a package; it pins files beside the "
            "manifest",
        )


def _input(given: Input, path: Path) -> Iterator[Fault]:
    yield from _order(given.steps, _KINDS[given.column_kind], path)
    for place, step in enumerate(given.steps):
        here = (*path, "steps", place)
        if isinstance(step, Normalize) and len(step.mean) != len(step.std):
            yield here, f"has {len(step.mean)} means but {len(step.std)} deviations"
        if isinstance(step, Transpose) and sorted(step.axes) != list(range(len(step.axes))):
            yield (
                (*here, "axes"),
                f"must be the axes 0 to {len(step.axes) - 1} in some order, not {list(step.axes)}",
            )


def _output(given: Output, path: Path) -> Iterator[Fault]:
    yield from _order(given.steps, SCORES, path)
    classes = given.shape[-1]
    if given.labels is not None and isinstance(classes, int) and len(given.labels) != classes:
        yield (
            (*path, "labels"),
            f"has {len(given.labels)} names, but the output's last size is {classes}",
        )


def _order(steps: Sequence[Step], kind: str, path: Path) -> Iterator[Fault]:
    for place, step in enumerate(steps):
        if kind not in step.needs:
            yield (
                (*path, "steps", place),
                f"{step.label} needs {' or '.join(sorted(step.needs))}, but is given {kind}; "
                "change the order, or say what the column holds (column_kind)",
            )
            return
        kind = step.gives or kind


def _accuracy(manifest: Manifest, metric: AccuracyMetric, path: Path) -> Iterator[Fault]:
    model = manifest.model
    outputs = {each.name: each for each in model.outputs}
    if isinstance(manifest.dataset, Random):
        yield path, "has nothing to be right about: the data set is random"
    if model.postprocess is not None:
        return
    if metric.output not in outputs:
        yield (
            (*path, "output"),
            f"is {metric.output!r}, but the model's outputs are {', '.join(outputs)}",
        )
        return
    output = outputs[metric.output]
    kind, classes = kind_of(output), output.shape[-1]
    if kind not in metric.takes:
        yield (
            (*path, "metric"),
            f"is {metric.label}, which needs {' or '.join(sorted(metric.takes))}; the output "
            f"{output.name!r} gives {kind}",
        )
    elif isinstance(metric, TopK) and isinstance(classes, int) and metric.k > classes:
        yield (*path, "k"), f"must be <= {classes}, the number of classes, not {metric.k}"


def _random(manifest: Manifest) -> Iterator[Fault]:
    data = manifest.dataset
    if not isinstance(data, Random):
        return
    if data.low > data.high:
        yield ("dataset", "low"), f"must be <= high, which is {data.high:g}, not {data.low:g}"
    for each in manifest.model.inputs:
        if each.dtype == "bool":
            continue
        dtype = np.dtype(each.dtype)
        limits = np.iinfo(dtype) if dtype.kind in "iu" else np.finfo(dtype)
        for name in ("low", "high"):
            if not float(limits.min) <= getattr(data, name) <= float(limits.max):
                yield (
                    ("dataset", name),
                    f"is {getattr(data, name):g}, which the input {each.name!r} of {each.dtype} "
                    "cannot hold",
                )


def _one_of_each_metric(manifest: Manifest) -> Iterator[Fault]:
    seen: set[tuple[str, str]] = set()
    for place, metric in enumerate(manifest.metrics.accuracy):
        key = (metric.label, metric.output)
        if key in seen:
            yield ("metrics", "accuracy", place), f"asks for {key[0]} of {key[1]!r} twice"
        seen.add(key)
