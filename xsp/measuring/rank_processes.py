"""Which ranks' processes have ended, as far as a process of the same host can see it."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")

SEEN_WITHIN_S = 2.0
"""A connection is reset a little before the process that held it is seen to have ended."""

_AGAIN_S = 0.02


@dataclass(frozen=True)
class RankProcess:
    """The process of a rank. Numbers of processes mean something in one `namespace` only, and are
    given again, to a process that `began` later.
    """

    rank: int
    host: str
    namespace: str
    pid: int
    began: str

    @classmethod
    def own(cls, rank: int) -> RankProcess:
        """The process that asks."""
        return cls.of(os.getpid(), rank)

    @classmethod
    def of(cls, pid: int, rank: int) -> RankProcess:
        """A process of this host."""
        return cls(rank, platform.node(), _namespace(), pid, _began(pid))

    @property
    def can_be_seen(self) -> bool:
        """Whether this process can see whether that one runs."""
        return bool(self.namespace) and self.namespace == _namespace()

    @property
    def has_ended(self) -> bool:
        """Whether it is gone, or has ended and nobody has asked for its status; False where it
        cannot be seen.
        """
        return self.can_be_seen and _began(self.pid) != self.began


def ended(processes: Sequence[RankProcess], within_s: float = SEEN_WITHIN_S) -> list[RankProcess]:
    """Those that have ended; waits so long for the first one."""
    until = time.monotonic() + within_s
    while True:
        found = [each for each in processes if each.has_ended]
        if found or time.monotonic() > until:
            return found
        time.sleep(_AGAIN_S)


def lost(processes: Sequence[RankProcess], told: Callable[[int], bool]) -> str:
    """What is known of which rank was lost, as the part of a sentence. Ranks of which it was `told`
    that they ended because another did are not named, unless nothing better is known.
    """
    gone = ended(processes)
    first = [each for each in gone if not told(each.rank)] or gone
    if first:
        named = ", ".join(f"rank {each.rank} (process {each.pid} on {each.host})" for each in first)
        return f"{named} {'has' if len(first) == 1 else 'have'} ended"
    unseen = [each for each in processes if not each.can_be_seen]
    if not unseen:
        return "the processes of all ranks are running"
    named = ", ".join(f"rank {each.rank} on {each.host}" for each in unseen)
    return f"the ranks of this host are running; those that cannot be seen from here: {named}"


def _namespace() -> str:
    """Boot of the machine and the namespace of its processes; empty where there is no /proc."""
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink(_PROC / 'self/ns/pid')}"
    except OSError:
        return ""


def _began(pid: int) -> str:
    """Clock ticks from boot to the process's start (proc_pid_stat(5), field 22); empty if it does
    not run any more.
    """
    try:
        # The name, in brackets, may hold spaces and brackets.
        fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    state, began = fields[0], fields[19]
    return "" if state in "ZX" else began
