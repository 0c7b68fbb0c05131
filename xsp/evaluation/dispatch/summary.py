"""What a dispatch came to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from xsp.evaluation.dispatch.agents import Offer
from xsp.evaluation.dispatch.job import Job


@dataclass(frozen=True)
class Summary:
    """Counts of jobs, by what became of them, and the agents.

    `kept` were written before this dispatch began, `done` and `failed` by it (a failed job is a row
    with its error), `remaining` were not run; the same call runs them. `lost` has a sentence for
    each agent that went away, `notes` what is doubtful about how the agents ran.
    """

    kept: int
    done: int
    failed: int
    remaining: tuple[Job, ...]
    agents: tuple[Offer, ...]
    lost: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether every job has its row."""
        return not self.remaining

    def __str__(self) -> str:
        parts = [f"{self.done} jobs done"]
        parts += _counted(self.failed, "failed")
        parts += _counted(self.kept, "were there already")
        told = [", ".join(parts), *self.lost, *self.notes]
        if self.remaining:
            told.append(
                f"{len(self.remaining)} jobs were not run, because no agent that can run them was "
                "left or the dispatch was stopped; give the same command again to run them"
            )
        return "\n".join(told)


def _counted(count: int, what: str) -> Sequence[str]:
    return [f"{count} {what}"] if count else []
