"""Steps of a loop that do the same work are a group: with its own structure, rounds and profile."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from xsp.doubts import Stopped, StopReason
from xsp.measuring.along.result import Known, LoopRuns
from xsp.measuring.along.step_watch import Kind
from xsp.measuring.ladder import Ladder
from xsp.measuring.options import Stop

MOST_GROUPS = 4
"""Groups of a loop that are measured; each takes steps of its own for its rounds."""

FEWEST_STEPS = 3
"""Steps of a kind after which it is worth a group."""

LONGEST_WAIT = 100
"""Steps without one of a group, while another has all its rounds, after which the group ends."""

GiveUp = Callable[[], bool]
"""Whether a step of the wanted kind has been waited for long enough."""


@dataclass
class Group:
    """Steps of one kind: what is known of them, the rule that ends their rounds, and the rounds.

    `other_layers` counts steps that were alike from outside and ran other layers.
    """

    known: Known
    ladder: Ladder
    rule: Stop
    done: LoopRuns = field(default_factory=LoopRuns)
    other_layers: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.order = random.Random(self.ladder.seed)  # noqa: S311 - an order of experiments

    @property
    def kind(self) -> Kind:
        """What steps of this group do."""
        return self.known.step.kind

    def give_up(self) -> None:
        """No more of its steps are waited for."""
        rounds = self.done.rounds
        said = f"given up after {rounds} rounds: steps like the structure step came too rarely"
        self.done.stopped = Stopped(StopReason.OWN_RULE, rounds, said=said)


class Seen:
    """How many steps of each kind the loop has made while it was followed."""

    def __init__(self) -> None:
        self.kinds: Counter[Kind] = Counter()
        self._last: dict[Kind, int] = {}

    def note(self, kind: Kind) -> None:
        """A step of this kind has ended."""
        self.kinds[kind] += 1
        self._last[kind] = self.kinds.total()

    def next_kind(self, groups: list[Group], refused: set[Kind]) -> Kind | None:
        """The most frequent kind that is no group yet; None where there is none worth it."""
        if len(groups) >= MOST_GROUPS:
            return None
        taken = {group.kind for group in groups} | refused
        often = ((kind, n) for kind, n in self.kinds.most_common() if n >= FEWEST_STEPS)
        return next((kind for kind, _ in often if kind not in taken), None)

    def has_stopped(self, kind: Kind) -> bool:
        """Whether steps of this kind have not come for so long that they are not waited for."""
        return self.kinds.total() - self._last.get(kind, 0) > LONGEST_WAIT

    def after_seconds(self, seconds: float) -> GiveUp:
        """Give up when so much time has passed from now on."""
        deadline = time.perf_counter() + seconds
        return lambda: time.perf_counter() > deadline

    def after_steps_for(self, kind: Kind) -> GiveUp:
        """Give up after several times as many steps as one of this kind has come in so far."""
        total = self.kinds.total()
        usual = 8 + 4 * total // max(self.kinds[kind], 1)
        last = total + min(usual, LONGEST_WAIT // 2)
        return lambda: self.kinds.total() > last or self.has_stopped(kind)
