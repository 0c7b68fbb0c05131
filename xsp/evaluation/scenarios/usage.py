"""Memory and energy of this process, read without a thread of its own."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from xsp.evaluation.scenarios.scenario import Usage
from xsp.machine.gpu_state import nvml_device

_STATUS = Path("/proc/self/status")
_PEAK = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"
"""Written there, it lowers VmHWM to what is resident now (proc(5))."""


class Meter:
    """Reads before and after; `usage` puts both together."""

    def __init__(self) -> None:
        self._reasons: dict[str, str] = {}
        self._before_bytes = self._read("host_bytes_before", lambda: _status_bytes("VmRSS"))
        self._energy_before_mj: int | None = None
        self._peak_is_known = True

    def begin_again(self) -> None:
        """Another test of the same system begins: let go of what the one before left, and count
        peaks from here.
        """
        self._reasons = {
            name: reason for name, reason in self._reasons.items() if name == "host_bytes_before"
        }
        gc.collect()
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_initialized():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        self._peak_is_known = self._read("peak_host_bytes", _reset_peak) is not None

    def start(self) -> None:
        """The warm-up is over: energy counts from here."""
        self._energy_before_mj = self._read("energy_joules", _energy_mj)

    def usage(self) -> Usage:
        """What was taken until now."""
        peak = None
        if self._peak_is_known:
            peak = self._read("peak_host_bytes", lambda: _status_bytes("VmHWM"))
        allocated = self._read("peak_device_bytes", _allocated_bytes)
        process = self._read("device_process_bytes", _process_bytes)
        energy = None
        if self._energy_before_mj is not None:
            after = self._read("energy_joules", _energy_mj)
            energy = None if after is None else (after - self._energy_before_mj) / 1e3
        return Usage(self._before_bytes, peak, allocated, process, energy, dict(self._reasons))

    def _read(self, name: str, read: Callable[[], int]) -> int | None:
        try:
            return read()
        except Exception as error:  # whatever is not there is left out, with its reason
            self._reasons[name] = str(error) or type(error).__name__
            return None


def _status_bytes(field: str) -> int:
    """A field of /proc/self/status, which has KiB (proc(5))."""
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{field}:"):
            return 1024 * int(line.split()[1])
    raise LookupError(f"{_STATUS} has no {field}")


def _reset_peak() -> int:
    try:
        return _PEAK.write_text(_RESET_PEAK)
    except OSError as error:
        raise LookupError(
            f"the process had a test before, and its peak cannot be reset ({error.strerror})"
        ) from error


def _torch_with_cuda() -> Any:
    """Torch, where this process uses a GPU by it. Asking must not make a context."""
    torch = sys.modules.get("torch")
    if torch is None:
        raise LookupError("PyTorch, which tells the GPU, is not loaded in the measured process")
    if not torch.cuda.is_available():
        raise LookupError("there is no CUDA device")
    return torch


def _allocated_bytes() -> int:
    torch = _torch_with_cuda()
    if not torch.cuda.is_initialized():
        raise LookupError("PyTorch did not use the GPU")
    return int(torch.cuda.max_memory_allocated())


def _process_bytes() -> int:
    nvml, device = nvml_device(_torch_with_cuda())
    for process in nvml.nvmlDeviceGetComputeRunningProcesses(device):
        if process.pid == os.getpid() and process.usedGpuMemory is not None:
            return int(process.usedGpuMemory)
    raise LookupError("NVML does not list this process, as in a container with its own numbers")


def _energy_mj() -> int:
    nvml, device = nvml_device(_torch_with_cuda())
    return int(nvml.nvmlDeviceGetTotalEnergyConsumption(device))
