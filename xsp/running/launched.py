"""Which rank of a job this process is, as its launcher says before torch is imported, and the start
of such a job.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from xsp.extras import require

_LAUNCHER = ("-m", "torch.distributed.run", "--standalone")
"""torchrun, for the ranks of one machine; at a free port."""


@dataclass(frozen=True)
class LaunchedRank:
    """A rank of a job of several, numbered from 0."""

    rank: int
    size: int

    def own_path(self, path: Path) -> Path:
        """Where this rank writes if all are told `path`: `rank<N>.xsp` in a folder, which is what
        a path without a suffix names, else `<stem>.rank<N><suffix>` beside it.
        """
        if path.is_dir() or not path.suffix:
            return path / f"rank{self.rank}.xsp"
        return path.with_name(f"{path.stem}.rank{self.rank}{path.suffix}")

    @property
    def tells(self) -> bool:
        """Whether this rank shows its summary: one does, the others' are much the same."""
        return self.rank == 0


def launched_rank() -> LaunchedRank | None:
    """Read from torchrun's variables RANK and WORLD_SIZE; None in a process that is not one of
    several.
    """
    rank, size = os.environ.get("RANK", ""), os.environ.get("WORLD_SIZE", "")
    if not (rank.isdecimal() and size.isdecimal()) or int(size) < 2:
        return None
    return LaunchedRank(int(rank), int(size))


def is_launched() -> bool:
    """Whether a launcher started this process, as one rank or as the only one."""
    return "RANK" in os.environ


def start_ranks(number: int, arguments: Sequence[str]) -> NoReturn:
    """Become torchrun, which runs xsp with these arguments in each of `number` ranks.

    Raises MissingPackageError where torch is not installed.
    """
    require("torch")
    given = (*_LAUNCHER, f"--nproc-per-node={number}", "-m", "xsp", *arguments)
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *given])  # noqa: S606 # xsp's own interpreter
