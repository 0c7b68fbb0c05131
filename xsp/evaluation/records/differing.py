"""What else than the numbers is not the same of two evaluations, and what is doubtful by that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from xsp.evaluation.records.evaluation import Evaluation

LABELS = "labels"
_MACHINE = frozenset(
    {
        "platform",
        "cpu",
        "cpu_count",
        "cpu_cores",
        "cpu_flags",
        "gpu",
        "gpu_count",
        "gpu_memory_bytes",
        "compute_capability",
        "multiprocessors",
        "driver",
    }
)
"""Facts of the environment that are the machine's, and not of what is installed or set in Python.
The clock is none of them: a virtual machine shows the present one."""
_LONGEST = 60
"""Characters of a value that a sentence shows."""

Facts = Mapping[str, Any]


def other_machine(before: Facts, after: Facts) -> list[str]:
    """The facts in which two machines differ, by name and without labels; none where they may be
    one machine, or alike.
    """
    return [name for name in _changed(before, after) if name in _MACHINE]


def differences(before: Evaluation, after: Evaluation) -> list[str]:
    """Sentences: manifests, runtimes and systems, each with what it was before and after."""
    said = []
    if before.manifest.identity != after.manifest.identity:
        said.append("the manifests differ")
    if (before.predictor, before.runtime) != (after.predictor, after.runtime):
        said.append(
            f"the runtimes differ: {before.predictor} {before.runtime}, "
            f"{after.predictor} {after.runtime}"
        )
    names = _of_systems(before, after)
    changed = [_change(name, before.system, after.system) for name in names]
    if changed:
        said.append(f"the systems differ: {'; '.join(changed)}")
    return said


def doubts(before: Evaluation, after: Evaluation) -> list[str]:
    """Sentences that belong to the verdict on the latencies of two evaluations."""
    said = []
    for each in (before, after):
        if not each.outcome.valid:
            why = "; ".join(each.outcome.reasons) or "no reason was given"
            said.append(f"{each.id} is not valid: {why}")
    names = other_machine(before.system, after.system)
    first, second = before.system.get(LABELS) or {}, after.system.get(LABELS) or {}
    if first != second:
        names.append(LABELS)
    if names:
        said.append(
            f"the two ran on different systems ({', '.join(names)}), so the verdict on latencies "
            "is about the systems as much as about what ran there"
        )
    return said


def _changed(before: Facts, after: Facts) -> list[str]:
    names = sorted({*before, *after})
    return [name for name in names if before.get(name) != after.get(name)]


def _of_systems(before: Evaluation, after: Evaluation) -> list[str]:
    """Without a runtime's version under the predictor's name where only one has it: the sentence on
    runtimes tells it.
    """
    first, second = before.system, after.system
    told = {
        name for name in (before.predictor, after.predictor) if (name in first) ^ (name in second)
    }
    return [name for name in _changed(first, second) if name not in told]


def _change(name: str, before: Facts, after: Facts) -> str:
    return f"{name} {_shown(before.get(name))} before, {_shown(after.get(name))} after"


def _shown(value: Any) -> str:
    if value is None or value in ({}, []):
        return "none"
    if isinstance(value, Mapping):
        text = ", ".join(f"{name}={each}" for name, each in value.items())
    elif isinstance(value, list):
        text = " ".join(map(str, value))
    else:
        text = str(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
