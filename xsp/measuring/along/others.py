"""Whether a step did the work of the structure step, and in words what it did otherwise."""

from __future__ import annotations

from collections import Counter

import numpy as np

from xsp.capture.run import Run, within_model
from xsp.levels.layer.autograd import ENGINE_CODE
from xsp.levels.layer.structure import Structure
from xsp.measuring.along.step_watch import Kind, Label, ModelCall
from xsp.types import LAYER_EVENTS, Level


def difference(structure: Kind, step: Kind) -> str:
    """What a step of a kind does otherwise than the structure step; empty where nothing is known to
    differ.
    """
    if structure == step:
        return ""
    label = label_of(step)
    if label != label_of(structure):
        return label or "unlabelled"
    ours = [event for event in structure if isinstance(event, ModelCall)]
    its = [event for event in step if isinstance(event, ModelCall)]
    if len(ours) == len(its) and ours != its:
        was, now = next(pair for pair in zip(ours, its, strict=True) if pair[0] != pair[1])
        if was.shapes != now.shapes:
            return f"inputs of {_sizes(now)} instead of {_sizes(was)}"
        return f"{_mode(now)} instead of {_mode(was)}"
    return f"{_counted(step)} instead of {_counted(structure)}"


def label_of(kind: Kind) -> str:
    """What the user calls steps of this kind; empty where they are told apart by what they did."""
    return next((event.text for event in kind if isinstance(event, Label)), "")


def different_layers(run: Run, structure: Structure) -> str:
    """How the layers of a timed step differ from those of the structure step; empty where they do
    not, or were not traced.
    """
    if Level.LAYER not in run.spec.levels:
        return ""
    events, _ = within_model(run.table("layer_events", LAYER_EVENTS), run.model_calls)
    seen = np.sort(events["code"][events["code"] < ENGINE_CODE])
    rows = structure.layers.codes()
    expected = np.sort(rows[rows < ENGINE_CODE])
    if np.array_equal(seen, expected):
        return ""
    return f"other layers ({len(seen)} calls instead of {len(expected)})"


def _sizes(call: ModelCall) -> str:
    return ", ".join("x".join(map(str, shape)) or "scalar" for shape in call.shapes) or "no tensors"


def _mode(call: ModelCall) -> str:
    gradients = "with" if call.grad else "without"
    mode = "training" if call.training else "evaluation"
    return f"{mode} {gradients} gradients, inputs of {', '.join(call.dtypes)}"


def _counted(kind: Kind) -> str:
    calls = sum(isinstance(event, ModelCall) for event in kind)
    others = Counter(event for event in kind if isinstance(event, str))
    backward = others.pop("backward", 0)
    named = "".join(f", {number} {name}" for name, number in others.items())
    return f"{calls} model calls, {backward} backward passes{named}"
