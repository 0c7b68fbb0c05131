"""Every rank does the same number of runs: where torch.distributed is initialised, a run on one
rank waits for the same run on the others, so decisions are made together.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from math import isfinite
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch.distributed as dist

from xsp.capture.run import Run
from xsp.doubts import Stopped, StopReason
from xsp.errors import SettingError, TargetError
from xsp.machine.torch_internals import has_word, leave_word
from xsp.measuring.options import RANK_TIMEOUT, Stop
from xsp.measuring.rank_processes import RankProcess, lost
from xsp.settings import setting
from xsp.tracing.context import TraceContext

PATIENCE_S = 60.0
"""So long a rank is waited for before the profile ends in an error, where `rank_timeout_s` is not
set.
"""

_OF_GLOO = "gloo/transport"
"""In the messages of gloo's errors, which are of no type of their own."""

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

_SAW_LOSS = "xsp/saw a rank's loss"
"""What a rank that ends because another did leaves in the job's store."""

_groups: WeakKeyDictionary[Any, tuple[Any, float, list[RankProcess]]] = WeakKeyDictionary()
"""By the program's group xsp's own, so that the program's collectives are not mixed with others,
how long it waits, and the ranks' processes.
"""


class Ranks:
    """The ranks that profile together; one that is alone asks nobody."""

    def __init__(
        self,
        group: Any = None,
        limit_s: float = PATIENCE_S,
        processes: Sequence[RankProcess] = (),
    ) -> None:
        self._group, self._limit_s, self._processes = group, limit_s, processes

    @classmethod
    def together(cls, *, alone: bool) -> Ranks:
        """All ranks of the program, which must all profile; only this one if it is `alone`, or has
        no others.

        Raises TargetError if one does not begin within PATIENCE_S or the `rank_timeout_s` that was
        set, and SettingError if that is no time.
        """
        if alone or not dist.is_available() or not dist.is_initialized():
            return cls()
        if dist.get_world_size() < 2:
            return cls()
        world = dist.group.WORLD
        if world not in _groups:
            limit_s = _limit_s()
            _groups[world] = _made(limit_s)
        return cls(*_groups[world])

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

        Raises TargetError if a rank has ended or does not answer within the limit.
        """
        if self._group is None:
            return [value]
        found: list[Any] = [None] * dist.get_world_size(self._group)
        try:
            dist.all_gather_object(found, value, group=self._group)
        except Exception as error:
            raise TargetError(
                f"rank {dist.get_rank()} waited for the other ranks to continue the profile, and "
                f"one has ended or did not answer within {self._limit_s:g} s ({RANK_TIMEOUT}); "
                f"{self._loss()}: see that rank's error"
            ) from error
        return found

    @contextmanager
    def told_of_loss(self) -> Iterator[None]:
        """Around a run: where the program's own collective failed, which is what the others see of
        a rank that ended, a TargetError says so. Every other exception passes through.
        """
        try:
            yield
        except Exception as error:
            if self._group is None or not _is_of_collective(error):
                raise
            raise TargetError(
                f"rank {dist.get_rank()} was in a run of the target when a collective of the "
                "program failed: another rank has ended, or did not answer within the timeout of "
                "the program's own group (init_process_group's); "
                f"{self._loss()}: see that rank's error. Here it was "
                f"{type(error).__name__}: {error}"
            ) from error

    def _loss(self) -> str:
        """What is known of the rank that was lost. The others are told that this one saw it, since
        they may not yet have, and find this one's process ended too.
        """
        leave_word(f"{_SAW_LOSS}/{dist.get_rank()}")
        return lost(self._processes, lambda rank: has_word(f"{_SAW_LOSS}/{rank}"))

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


def _is_of_collective(error: Exception) -> bool:
    return isinstance(error, dist.DistError) or _OF_GLOO in str(error)


def _limit_s() -> float:
    found = setting(RANK_TIMEOUT)
    if found is None:
        return PATIENCE_S
    try:
        seconds = float(found.value)
    except (TypeError, ValueError):
        seconds = 0.0
    if seconds <= 0 or not isfinite(seconds):
        raise SettingError(
            f"{RANK_TIMEOUT} must be a number of seconds > 0, not {found.value!r} as "
            f"{found.place} has it"
        )
    return seconds


def _made(limit_s: float) -> tuple[Any, float, list[RankProcess]]:
    own = RankProcess.own(dist.get_rank())
    processes: list[Any] = [None] * dist.get_world_size()
    try:
        group = dist.new_group(backend="gloo", timeout=timedelta(seconds=limit_s))
        dist.all_gather_object(processes, own, group=group)
    except Exception as error:
        raise TargetError(
            f"rank {dist.get_rank()} waited {limit_s:g} s ({RANK_TIMEOUT}) for the other ranks to "
            "begin the same profile: profile on every rank, or pass alone=True where the target "
            "does not communicate"
        ) from error
    return group, limit_s, processes
