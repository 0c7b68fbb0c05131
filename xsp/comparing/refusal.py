"""Whether the times of two profiles can be compared, and what of their counts."""

from __future__ import annotations

from collections.abc import Collection

from xsp.comparing import phrases
from xsp.comparing.comparable import ENVIRONMENT, SETTINGS, Comparable
from xsp.comparing.node_facts import COUNTS
from xsp.errors import XspError

_WORDS = {
    "gpu": "GPU",
    "gpu_count": "number of GPUs",
    "cuda": "CUDA",
    "cudnn": "cuDNN",
    "power_limit_w": "power limit (W)",
    "cpu": "CPU",
    "cpu_count": "number of CPUs",
    "torch_threads": "torch's threads",
}
_NEEDS = {"library_calls": "LIBRARY"} | dict.fromkeys(
    ["kernels", "copies", "sets", "copied_bytes", "synchronizations"], "KERNEL"
)
"""The level that must have been traced for a count to be known."""
INPUTS = "inputs"
"""What may differ besides the environment: the shapes and types of the model's inputs."""


def refusal(a: Comparable, b: Comparable, allow: Collection[str] = ()) -> str | None:
    """Why times of `b` must not be compared with those of `a`, in one sentence; None if they can
    be.

    Times are of one machine and one size of inputs. `allow` names facts that may differ because
    their effect is what is asked for, such as "torch" or "inputs".

    Raises XspError for a name that is no such fact.
    """
    facts = (*ENVIRONMENT, INPUTS)
    if unknown := [name for name in allow if name not in facts]:
        raise XspError(
            f"{unknown[0]!r} is not a fact that can be allowed to differ; the facts are "
            f"{', '.join(facts)}"
        )
    differing = [
        f"{_WORDS.get(name, name)} {_shown(a, name)} in the baseline, {_shown(b, name)} in the "
        "candidate"
        for name in ENVIRONMENT
        if name not in allow and a.environment.get(name) != b.environment.get(name)
    ]
    given = [_inputs(each) for each in (a, b)]
    if INPUTS not in allow and all(given) and given[0] != given[1]:
        differing.append(f"inputs {given[0]} in the baseline, {given[1]} in the candidate")
    return f"times are not compared, only counts: {'; '.join(differing)}" if differing else None


def _inputs(which: Comparable) -> str:
    """Shapes and types of the model's inputs; empty where they are not known."""
    model = which.nodes.iloc[0]
    known = bool(model["input_shapes"])
    return phrases.tensors(str(model["input_shapes"]), str(model["input_dtypes"])) if known else ""


def settings_changed(a: Comparable, b: Comparable) -> list[str]:
    """A sentence for each of PyTorch's switches that differs and is known on both sides."""
    both = [name for name in SETTINGS if name in a.environment and name in b.environment]
    return [
        f"The switch {name} is {_shown(b, name)}, in the baseline it is {_shown(a, name)}."
        for name in both
        if a.environment[name] != b.environment[name]
    ]


def known_counts(a: Comparable, b: Comparable) -> list[str]:
    """The counts of `xsp.comparing.node_facts.COUNTS` that are known in both and mean the same."""
    known = [
        name
        for name in COUNTS
        if _NEEDS.get(name, "MODEL") in a.levels and _NEEDS.get(name, "MODEL") in b.levels
    ]
    # Bytes are the GPU's allocator's where there is a GPU, and 0 where they could not be recorded.
    on_gpu = ["gpu" in each.environment for each in (a, b)]
    bytes_known = on_gpu[0] == on_gpu[1] and all(each.counts["allocated_bytes"] for each in (a, b))
    return [name for name in known if name != "allocated_bytes" or bytes_known]


def levels_missing(a: Comparable, b: Comparable) -> list[str]:
    """A sentence for each level that only one of the two has."""
    sides = (("baseline", a, b), ("candidate", b, a))
    return [
        f"The level {level} was traced in the {which} only and is not compared."
        for which, mine, other in sides
        for level in mine.levels
        if level not in other.levels
    ]


def _shown(which: Comparable, name: str) -> str:
    value = which.environment.get(name)
    return "none" if value is None else str(value)
