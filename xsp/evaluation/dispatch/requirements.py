"""Which agents can run a job, decided before anything is handed out: a cluster would let a job that
nobody can run wait for ever.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

from xsp.errors import DispatchError
from xsp.evaluation.dispatch.agents import Offer
from xsp.evaluation.dispatch.job import Job, Requirements

_OPERATORS = ("<", ">", "=", "!", "~")
_NAMED = 4
"""Agents and requirements that a sentence names."""


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
    return f"{wanted:g} {name}"


def _offered(offer: Offer, names: Iterable[str]) -> str:
    """An agent with what it has of the things asked for."""
    amounts = {name: f"{amount:g}" for name, amount in offer.resources.items()}
    has: Mapping[str, str] = {**offer.labels, **amounts}
    told = [f"{name} {has[name]}" if name in has else f"no {name}" for name in names]
    return f"{offer.agent} ({', '.join(told)})"


def _few(parts: Sequence[str], between: str) -> str:
    shown = between.join(parts[:_NAMED])
    more = len(parts) - _NAMED
    return f"{shown} and {more} more" if more > 0 else shown
