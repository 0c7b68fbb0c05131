"""What the numbers were measured on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from typing import Any

from xsp.machine import peak_file as measured_peaks
from xsp.machine.gpu_state import highest_clocks, power_limit
from xsp.machine.processor import processor


def version_of(package: str) -> str | None:
    """Installed version of a distribution, None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def environment() -> dict[str, Any]:
    """Versions, host and GPU, as JSON-able values."""
    import torch

    facts: dict[str, Any] = {
        "xsp": version_of("xsp"),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "cuda": torch.version.cuda,
        "cudnn": _cudnn_version(torch),
        "cupti_python": version_of("cupti-python"),
        "platform": platform.platform(),
        "cpu": _cpu_name(),
        "cpu_count": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
    }
    facts |= processor()
    if torch.cuda.is_available():
        facts |= _gpu(torch) | highest_clocks(torch) | power_limit(torch)
    measured = measured_peaks.read_peaks(measured_peaks.device_key(facts))
    return facts | ({"measured_peaks": measured} if measured else {})


def _cudnn_version(torch: Any) -> int | None:
    return torch.backends.cudnn.version() if torch.backends.cudnn.is_available() else None


def _gpu(torch: Any) -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    return {
        "gpu": properties.name,
        "gpu_count": torch.cuda.device_count(),
        "gpu_memory_bytes": properties.total_memory,
        "compute_capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "driver": _driver_version(),
        "allow_tf32": torch.backends.cuda.matmul.allow_tf32,
        "cudnn_allow_tf32": torch.backends.cudnn.allow_tf32,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
    }


def _driver_version() -> str | None:
    try:
        with open("/proc/driver/nvidia/version") as file:
            words = file.readline().split()
    except OSError:
        return None
    return next((word for word in words if word.count(".") >= 1 and word[0].isdigit()), None)


def _cpu_name() -> str:
    if sys.platform == "linux":
        try:
            with open("/proc/cpuinfo") as file:
                return next(
                    line.split(":", 1)[1].strip() for line in file if line.startswith("model name")
                )
        except (OSError, StopIteration):
            pass
    return platform.processor()
