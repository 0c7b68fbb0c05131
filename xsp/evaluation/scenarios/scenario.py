"""What a scenario asks of a system, and what it gives: columns over queries."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pandas as pd

System = Callable[[Sequence[int]], None]
"""Answers the samples with these indices, and returns when they are answered; may raise."""
MakeSystem = Callable[[], System]
"""Makes a system, in the process in which it is measured: importable, so that it can be pickled."""

Columns = npt.NDArray[np.int64]
Marks = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Usage:
    """What a test took of the machine. None is unknown; `reasons` says why, by the field's name.

    Args:
        host_bytes_before: resident memory of the process before the system was made.
        peak_host_bytes: most resident memory that the process ever had (VmHWM of proc(5)); since
            the test began where others of the system were before it in the process.
        peak_device_bytes: likewise, most memory that PyTorch's allocator had of the GPU.
        device_process_bytes: memory of the GPU that the process had at the end, by NVML. Runtimes
            that keep what they took have their most then.
        energy_joules: of the whole GPU over the test (nvmlDeviceGetTotalEnergyConsumption), warm-up
            left out.
        reasons: why a field is None.

    """

    host_bytes_before: int | None = None
    peak_host_bytes: int | None = None
    peak_device_bytes: int | None = None
    device_process_bytes: int | None = None
    energy_joules: float | None = None
    reasons: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What a test gave. Columns have an entry for each query, in the order of issue; times are ns
    on the monotonic clock of the process that was measured.

    Args:
        scenario: its kind.
        settings: of the scenario, as JSON has them.
        scheduled_ns: int64 [queries]; when the query should arrive. Latency counts from here.
        issued_ns: int64 [queries]; when it reached the system's queue.
        completed_ns: int64 [queries]; when the system had returned.
        samples: int64 [queries]; samples in the query.
        answered: bool [queries]; False where the system raised.
        errors: queries that the system did not answer.
        valid: whether the test is valid by MLPerf's rules and every query was answered.
        reasons: why it is not valid.
        doubts: what makes the numbers doubtful, though the test is valid.
        logs: the folder with loadgen's files and the recorded columns.
        details: further facts, as JSON has them: of the schedule, of the search.
        usage: memory and energy.

    """

    scenario: str
    settings: Mapping[str, Any]
    scheduled_ns: Columns
    issued_ns: Columns
    completed_ns: Columns
    samples: Columns
    answered: Marks
    errors: int
    valid: bool
    reasons: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    logs: Path | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    usage: Usage = field(default_factory=Usage)

    @property
    def latency_ns(self) -> Columns:
        """int64 [queries]: from the scheduled arrival to the answer."""
        return self.completed_ns - self.scheduled_ns

    @property
    def lag_ns(self) -> Columns:
        """int64 [queries]: how much later than scheduled the query reached the system."""
        return self.issued_ns - self.scheduled_ns

    def to_frame(self) -> pd.DataFrame:
        """The columns, with latency_ns."""
        # A test's process needs numpy only: pandas takes a second to import, and 60 MB.
        import pandas as pd

        return pd.DataFrame(
            {
                "scheduled_ns": self.scheduled_ns,
                "issued_ns": self.issued_ns,
                "completed_ns": self.completed_ns,
                "samples": self.samples,
                "answered": self.answered,
                "latency_ns": self.latency_ns,
            }
        )
