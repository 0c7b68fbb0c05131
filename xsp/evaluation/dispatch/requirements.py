"""What manifests ask of a machine, and which agents have it, decided before anything is handed out:
a cluster would let a job that nobody can run wait for ever.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

from xsp.errors import DispatchError, EvaluationError
from xsp.evaluation.dispatch.agents import Offer
from xsp.evaluation.dispatch.job import Job, Requirements
from xsp.evaluation.manifest.model import Manifest

_OPERATORS = ("<", ">", "=", "!", "~")
_NAMED = 4
"""Agents and requirements that a sentence names."""


def required(manifest: Manifest, on: Mapping[str, str]) -> Requirements:
    """What an agent must have: the manifest's own requirements, and the device of its runtime."""
    asked = manifest.system
    on_gpu = manifest.runtime.device != "cpu"
    amounts = {
        "GPU": float(max(asked.gpus, int(on_gpu))),
        "memory": asked.memory_gib * 2**30,
    }
    needed = {name: amount for name, amount in amounts.items() if amount > 0}
    return {**needed, **dict(asked.labels), **on}


def check_here(manifest: Manifest, offer: Offer) -> None:
    """Raise EvaluationError where this machine is not what a manifest asks for. Whether the device
    can be used, its runtime tells.
    """
    asked = manifest.system
    on_host = manifest.runtime.model_copy(update={"device": "cpu"})
    wanted = required(manifest.model_copy(update={"runtime": on_host}), {})
    lacking = {name: wanted[name] for name in unmet(offer, wanted)}
    if not lacking:
        return
    labels = [f"--label {name}={asked.labels[name]}" for name in lacking if name in asked.labels]
    give = f"; give {' '.join(labels)} where it has that" if labels else ""
    raise EvaluationError(
        f"the manifest asks for a system with {_told(lacking)}, but this machine has "
        f"{_has_of(offer, lacking)}{give}"
    )


def unmet(offer: Offer, requirements: Requirements) -> tuple[str, ...]:
    """The names of what an agent lacks; none where it can run the job."""
    return tuple(
        name for name, wanted in sorted(requirements.items()) if not _has(offer, name, wanted)
    )


def able(offers: Iterable[Offer], job: Job) -> list[str]:
    """The agents that can run a job."""
    return [offer.agent for offer in offers if not unmet(offer, job.requirements)]


def refuse_impossible(jobs: Iterable[Job], offers: Sequence[Offer]) -> None:
    """Raise DispatchError, in one sentence, where no agent can run some job."""
    impossible = [job for job in jobs if not able(offers, job)]
    if not impossible:
        return
    wanted = dict.fromkeys(_told(job.requirements) for job in impossible)
    agents = [_offered(offer, _names(impossible)) for offer in offers]
    raise DispatchError(
        f"no agent can run {len(impossible)} of the jobs, which need {_few(list(wanted), ' or ')}; "
        f"the agents are {_few(agents, '; ')}: leave these jobs out, or add an agent that has what "
        "they need (nothing was started)"
    )


def _has(offer: Offer, name: str, wanted: float | str) -> bool:
    if not isinstance(wanted, str):
        return offer.resources.get(name, 0.0) >= wanted
    label = offer.labels.get(name)
    if label is None:
        return False
    return label == wanted or (wanted.startswith(_OPERATORS) and _version_fits(label, wanted))


def _version_fits(label: str, constraint: str) -> bool:
    try:
        return SpecifierSet(constraint).contains(Version(label), prereleases=True)
    except (InvalidSpecifier, InvalidVersion):
        return False


def _names(jobs: Iterable[Job]) -> list[str]:
    return sorted({name for job in jobs for name in job.requirements})


def _told(requirements: Requirements) -> str:
    return " and ".join(_one(name, wanted) for name, wanted in sorted(requirements.items()))


def _one(name: str, wanted: float | str) -> str:
    if isinstance(wanted, str):
        return f"{name} {wanted}"
    return f"{_amount(name, wanted)} {name}"


def _offered(offer: Offer, names: Iterable[str]) -> str:
    """An agent with what it has of the things asked for."""
    return f"{offer.agent} ({_has_of(offer, names)})"


def _has_of(offer: Offer, names: Iterable[str]) -> str:
    amounts = {name: _amount(name, amount) for name, amount in offer.resources.items()}
    has: Mapping[str, str] = {**offer.labels, **amounts}
    return ", ".join(f"{name} {has[name]}" if name in has else f"no {name}" for name in names)


def _amount(name: str, amount: float) -> str:
    """Memory, which is in bytes, in GiB."""
    return f"{amount / 2**30:.4g} GiB" if name == "memory" else f"{amount:g}"


def _few(parts: Sequence[str], between: str) -> str:
    shown = between.join(parts[:_NAMED])
    more = len(parts) - _NAMED
    return f"{shown} and {more} more" if more > 0 else shown
