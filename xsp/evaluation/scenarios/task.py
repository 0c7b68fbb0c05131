"""What passes between a test's process and the one that waits for it."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from xsp.errors import EvaluationError
from xsp.evaluation.scenarios.scenario import Usage

RESULT = "result.json"
OUTPUT = "output.txt"
"""What the test's process printed."""


@dataclass(frozen=True)
class Ready:
    """In a scenario's place: nothing is measured. The system is made and called once with each of
    these numbers of samples, in their order.
    """

    sizes: tuple[int, ...]


@dataclass(frozen=True)
class Judging:
    """In a scenario's place: no queries come. What is made is called once with the recording, which
    has a row for each batch that was judged, and returns the report's details.
    """


@dataclass(frozen=True)
class Task:
    """One test: how queries arrive (arrival times of a replay are resolved already), what answers
    them (pickled), from how many samples, and where the logs are. Or `Ready`, or `Judging`.
    """

    scenario: Any
    make_system: bytes
    samples: int
    folder: Path
    arrivals_ns: Any = None


@dataclass
class Report:
    """What the test's process tells at its end, as JSON has it."""

    failure: str | None = None
    errors: int = 0
    first_error: str | None = None
    loadgen_valid: bool | None = None
    said: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)
    usage: dict[str, Any] = field(default_factory=lambda: asdict(Usage()))


def pickled(make_system: Callable[[], Any]) -> bytes:
    """The function as bytes. Raises EvaluationError if another process cannot import it."""
    home = getattr(make_system, "__module__", None)
    if home == "__main__":
        raise EvaluationError(
            f"{getattr(make_system, '__qualname__', make_system)!r} is defined in the script that "
            "runs, which the measured process does not run: put it into a module of its own"
        )
    try:
        return pickle.dumps(make_system)
    except Exception as error:
        raise EvaluationError(
            f"{make_system!r} cannot be handed to the measured process ({error}): give a function "
            "of a module, or a functools.partial of one"
        ) from error
