"""The GPU's clocks, power, temperature and throttling at each round, through NVIDIA's management
library (NVML).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from xsp.words.slugs import with_slug

# NVML's clocks event reasons that slow a busy GPU down. Idle, application clocks and sync boost are
# not among them.
_THROTTLES = {
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
}

CLOCK_CHANGE = 0.05
"""A round counts as run at another clock when its SM clock is this far from the median of all
rounds.
"""


def nvml_device(torch: Any) -> tuple[Any, Any]:
    """NVML, initialised, and its handle of torch's current GPU. Raises whatever says that there is
    no NVML.
    """
    import pynvml

    pynvml.nvmlInit()
    identifier = str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid)
    name = identifier if identifier.startswith("GPU-") else f"GPU-{identifier}"
    return pynvml, pynvml.nvmlDeviceGetHandleByUUID(name)


def visible_gpus() -> int:
    """How many GPUs of this machine a process started here could use: those that NVML counts, as
    far as CUDA_VISIBLE_DEVICES names them. 0 without NVML. CUDA is not started.
    """
    try:
        import pynvml

        pynvml.nvmlInit()
        there = int(pynvml.nvmlDeviceGetCount())
    except Exception:  # whatever says that there is no NVML, or no GPU
        return 0
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return there
    return min(there, len([one for one in named.split(",") if one.strip() not in ("", "-1")]))


def highest_clocks(torch: Any) -> dict[str, int]:
    """max_sm_clock_mhz, max_memory_clock_mhz (nvmlDeviceGetMaxClockInfo) and memory_bus_bits of
    torch's current GPU.

    Without NVML, or where it does not tell, they are left out: nothing but the peaks of the
    analyses needs them.
    """
    try:
        nvml, device = nvml_device(torch)
        return {
            "max_sm_clock_mhz": nvml.nvmlDeviceGetMaxClockInfo(device, nvml.NVML_CLOCK_SM),
            "max_memory_clock_mhz": nvml.nvmlDeviceGetMaxClockInfo(device, nvml.NVML_CLOCK_MEM),
            "memory_bus_bits": nvml.nvmlDeviceGetMemoryBusWidth(device),
        }
    except Exception:  # as for GpuWatch: a convenience, whatever NVML says
        return {}


def power_limit(torch: Any) -> dict[str, float]:
    """power_limit_w (nvmlDeviceGetEnforcedPowerLimit) of torch's current GPU, empty where NVML does
    not tell.

    Two GPUs of one model with different limits do not take the same time.
    """
    try:
        nvml, device = nvml_device(torch)
        return {"power_limit_w": nvml.nvmlDeviceGetEnforcedPowerLimit(device) / 1e3}
    except Exception:  # as above
        return {}


@dataclass(frozen=True)
class GpuState:
    """One reading (nvmlDeviceGetClockInfo, ...GetPowerUsage, ...GetTemperature,
    ...GetCurrentClocksEventReasons).
    """

    round: int
    sm_clock_mhz: int
    memory_clock_mhz: int
    power_w: float
    temperature_c: int
    throttled_by: str
    other_processes: int

    @classmethod
    def columns(cls) -> list[str]:
        """Names of what is read."""
        return [field.name for field in fields(cls)]

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> GpuState:
        """A reading that a capture has."""
        return cls(**{name: row[name] for name in cls.columns()})


class GpuWatch:
    """Reads the state of torch's current GPU; silent where there is none, or no NVML (`why` then
    says so).
    """

    def __init__(self) -> None:
        self.states: list[GpuState] = []
        self.why: str | None = None
        self._nvml: Any = None
        self._device: Any = None
        try:
            self._open()
        except Exception as error:  # NVML is a convenience: whatever it says, the profile goes on
            self.why = with_slug(
                "unwatched",
                f"clocks and throttling were not watched: {type(error).__name__}: {error}",
            )

    def _open(self) -> None:
        import torch

        if torch.cuda.is_available():
            self._nvml, self._device = nvml_device(torch)

    def read(self, number: int) -> None:
        """Take the state at the end of a round. NVML calls take some 0.1 ms and lie outside every
        timed run.
        """
        if self._nvml is None:
            return
        try:
            self.states.append(self._state(number))
        except Exception as error:  # see above
            why = (
                f"clocks and throttling were not watched to the end: {type(error).__name__}: "
                f"{error}"
            )
            self.why = with_slug("unwatched", why)
            self._nvml = None

    def _state(self, number: int) -> GpuState:
        nvml, device = self._nvml, self._device
        reasons = nvml.nvmlDeviceGetCurrentClocksThrottleReasons(device)
        others = {process.pid for process in nvml.nvmlDeviceGetComputeRunningProcesses(device)} - {
            os.getpid()
        }
        return GpuState(
            number,
            nvml.nvmlDeviceGetClockInfo(device, nvml.NVML_CLOCK_SM),
            nvml.nvmlDeviceGetClockInfo(device, nvml.NVML_CLOCK_MEM),
            nvml.nvmlDeviceGetPowerUsage(device) / 1e3,
            nvml.nvmlDeviceGetTemperature(device, nvml.NVML_TEMPERATURE_GPU),
            ", ".join(name for bit, name in _THROTTLES.items() if reasons & bit),
            len(others),
        )

    def ranges(self) -> dict[str, Any]:
        """What was seen over all rounds, for `Profile.environment`: lowest and highest SM clock,
        power and temperature, what throttled the GPU, and how many other processes used it; empty
        where nothing was read.
        """
        if not self.states:
            return {}
        quantities = ("sm_clock_mhz", "power_w", "temperature_c")
        seen = {name: [getattr(state, name) for state in self.states] for name in quantities}
        return {name: [min(values), max(values)] for name, values in seen.items()} | {
            "throttled_by": sorted(
                {state.throttled_by for state in self.states if state.throttled_by}
            ),
            "other_processes": max(state.other_processes for state in self.states),
        }

    def rows(self) -> list[dict[str, Any]]:
        """The readings as JSON-able values, for the manifest of a capture."""
        return [asdict(state) for state in self.states]


def suspect_rounds(states: list[GpuState]) -> set[int]:
    """Rounds that ended throttled or at another clock than most."""
    if not states:
        return set()
    clocks = sorted(state.sm_clock_mhz for state in states)
    usual = clocks[len(clocks) // 2]
    return {
        state.round
        for state in states
        if state.throttled_by or abs(state.sm_clock_mhz - usual) > CLOCK_CHANGE * max(usual, 1)
    }


def kept_rounds(states: list[GpuState], rounds: int, least: int) -> tuple[set[int], str | None]:
    """Rounds to use, and a sentence if some were suspect.

    Suspect rounds are left out while at least `least` others remain; where most are suspect, that
    is the state the program runs in, and all are kept.
    """
    every, suspect = set(range(rounds)), suspect_rounds(states)
    if not suspect:
        return every, None
    causes = sorted({state.throttled_by for state in states if state.throttled_by}) or [
        "its clock changed"
    ]
    what = (
        f"the GPU was throttled or changed its clock in {len(suspect)} of {rounds} rounds "
        f"({'; '.join(causes)})"
    )
    if len(every - suspect) >= max(least, rounds // 2):
        return every - suspect, with_slug("throttled", f"{what}; these rounds are left out")
    mixed = (
        "the numbers are those of a GPU in this state"
        if suspect == every
        else "the numbers mix both states"
    )
    return every, with_slug("throttled", f"{what}; all rounds are kept, so {mixed}")


def about_others(states: list[GpuState], rounds: int) -> list[str]:
    """A sentence if other processes had work on the GPU."""
    shared = [state.other_processes for state in states if state.other_processes]
    if not shared:
        return []
    sentence = (
        f"other processes (up to {max(shared)}) used the GPU in {len(shared)} of {rounds} rounds: "
        "what they ran made "
        "times longer, and is in no table"
    )
    return [with_slug("shared-gpu", sentence)]
