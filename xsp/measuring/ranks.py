"""Every rank does the same number of runs: where torch.distributed is initialised, a run on one
rank waits for the same run on the others, so decisions are made together.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch.distributed as dist

from xsp.capture.run import Run
from xsp.doubts import Stopped, StopReason
from xsp.errors import TargetError
from xsp.measuring.options import Stop
from xsp.tracing.context import TraceContext

PATIENCE_S = 60.0
"""So long a rank is waited for before the profile ends in an error."""

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

_groups: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
"""xsp's own group by the program's: the program's collectives must not be mixed with others."""


class Ranks:
    """The ranks that profile together; one that is alone asks nobody."""

    def __init__(self, group: Any = None) -> None:
        self._group = group

    @classmethod
    def together(cls, *, alone: bool) -> Ranks:
        """All ranks of the program, which must all profile; only this one if it is `alone`, or has
        no others.

        Raises TargetError if one does not begin within PATIENCE_S.
        """
        if alone or not dist.is_available() or not dist.is_initialized():
            return cls()
        if dist.get_world_size() < 2:
            return cls()
        world = dist.group.WORLD
        if world not in _groups:
            _groups[world] = _made()
        return cls(_groups[world])

    @property
    def are_several(self) -> bool:
        """Whether others profile together with this one."""
        return self._group is not None

    @property
    def place(self) -> dict[str, Any] | None:
        """Number of this rank, how many there are, and on which host; None without others. Ranks
        with the same `boot` read the same monotonic clock.
        """
        if self._group is None:
            return None
        return {
            "rank": dist.get_rank(),
            "size": dist.get_world_size(),
            "host": platform.node(),
            "boot": _BOOT_ID.read_text().strip() if _BOOT_ID.exists() else platform.node(),
        }

    def in_one_trace(self, trace: TraceContext) -> TraceContext:
        """Rank 0's trace for all of them; span ids stay each rank's own."""
        trace_id, parent_span_id = self.gathered((trace.trace_id, trace.parent_span_id))[0]
        return replace(trace, trace_id=trace_id, parent_span_id=parent_span_id)

    def gathered(self, value: Any) -> list[Any]:
        """What every rank gives, in their order; it can be pickled.

        Raises TargetError if a rank has ended or does not answer within PATIENCE_S.
        """
        if self._group is None:
            return [value]
        found: list[Any] = [None] * dist.get_world_size(self._group)
        try:
            dist.all_gather_object(found, value, group=self._group)
        except Exception as error:
            raise TargetError(
                f"rank {dist.get_rank()} waited for the other ranks to continue the profile, and "
                f"one has ended or did not answer within {PATIENCE_S:.0f} s: see that rank's error"
            ) from error
        return found

    def any(self, flag: bool) -> bool:
        """Whether it is so on any rank."""
        return any(self.gathered(bool(flag)))

    def same(self, what: str, value: Any) -> None:
        """Raises TargetError, on every rank, if this is not the same on all."""
        every = self.gathered(value)
        if any(each != every[0] for each in every):
            listed = ", ".join(f"rank {rank}: {each!r}" for rank, each in enumerate(every))
            raise TargetError(
                f"{what} must be the same on every rank, not {listed}; pass the same options, or "
                "alone=True where a rank profiles something of its own"
            )

    def stop_together(self, stop: Stop) -> Stop:
        """A rule that ends the rounds when every rank's does, or one has no time left."""
        if self._group is None:
            return stop

        def together(runs: Sequence[Run]) -> Stopped | str | None:
            mine = stop(runs)
            every = self.gathered(mine)
            ended = [each for each in every if each is not None]
            is_last = any(isinstance(each, Stopped) and _is_final(each) for each in ended)
            if not ended or (len(ended) < len(every) and not is_last):
                return None
            return mine if mine is not None else ended[0]

        return together


def _is_final(stopped: Stopped) -> bool:
    return stopped.cut_short or stopped.reason is StopReason.MOST_ROUNDS


def _made() -> Any:
    try:
        return dist.new_group(backend="gloo", timeout=timedelta(seconds=PATIENCE_S))
    except Exception as error:
        raise TargetError(
            f"rank {dist.get_rank()} waited {PATIENCE_S:.0f} s for the other ranks to begin the "
            "same profile: profile on every rank, or pass alone=True where the target does not "
            "communicate"
        ) from error
