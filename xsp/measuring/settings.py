"""How to measure: every option in one checked object."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Integral, Real

from xsp.errors import TargetError
from xsp.levels.counters.metrics import IN_PLACE, parse_caches, parse_metrics
from xsp.measuring.stopping import BUDGET_S, Stop, after_rounds, until_precise
from xsp.types import Level
from xsp.words.levels import parse_levels


@dataclass(frozen=True)
class Settings:
    """How to measure; see `xsp.measure` for the meaning of each."""

    levels: tuple[Level, ...] = tuple(Level)
    iterations: int | None = None
    warmup: int | None = None
    budget_s: float = BUDGET_S
    seed: int = 0
    progress: bool | None = None
    serialize: bool | None = None
    stop: Stop | None = None
    metrics: tuple[str, ...] = ()
    caches: str = IN_PLACE
    nvtx: bool = False
    ranges_as_layers: bool = False

    @classmethod
    def of(
        cls,
        levels: str | Iterable[Level | str] | None,
        iterations: int | None,
        warmup: int | None,
        budget_s: float | None,
        seed: int,
        progress: bool | None,
        serialize: bool | None = None,
        stop: Stop | None = None,
        metrics: str | Iterable[str] = (),
        caches: str = IN_PLACE,
        nvtx: bool = False,
        ranges_as_layers: bool = False,
    ) -> Settings:
        """Checked settings.

        Raises LevelError for unknown levels, metrics or caches, TargetError for an impossible
        option.
        """
        for name, count, least in (("iterations", iterations, 1), ("warmup", warmup, 0)):
            if count is not None and (
                isinstance(count, bool) or not isinstance(count, Integral) or count < least
            ):
                raise TargetError(
                    f"{name}={count!r} cannot be: a whole number from {least} on, or None"
                )
        if budget_s is not None and not (isinstance(budget_s, Real) and budget_s >= 0):
            raise TargetError(
                f"budget_s={budget_s!r} cannot be: seconds from 0 on, or None for the default"
            )
        if stop is not None and (iterations is not None or not callable(stop)):
            raise TargetError(
                f"stop={stop!r} cannot be: a function of the runs so far, given instead of "
                "iterations"
            )
        budget = BUDGET_S if budget_s is None else budget_s
        traced, counted, found = parse_levels(levels), parse_metrics(metrics), parse_caches(caches)
        return cls(
            traced,
            iterations,
            warmup,
            budget,
            seed,
            progress,
            serialize,
            stop,
            counted,
            found,
            nvtx,
            ranges_as_layers,
        )

    def stopping_rule(self) -> Stop:
        """The rule given, else as many rounds as asked for, else until precise."""
        if self.stop is not None:
            return self.stop
        return (
            until_precise(budget_s=self.budget_s)
            if self.iterations is None
            else after_rounds(self.iterations)
        )
