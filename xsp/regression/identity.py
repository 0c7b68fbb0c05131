"""Names under which baselines are kept: of tests, and of the machines they were measured on."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

_GPU = ("gpu", "driver", "cuda", "torch", "power_limit_w")
_CPU = ("cpu", "torch_threads", "torch")
_UNSAFE = re.compile(r"[^\w.,=+@\-\[\]]+")
_LONGEST = 120


def machine_of(environment: Mapping[str, Any]) -> dict[str, Any]:
    """What times depend on, and a baseline is kept by: GPU, driver, CUDA, torch and power limit;
    without a GPU the CPU, the number of torch's threads and torch.
    """
    keys = _GPU if environment.get("gpu") else _CPU
    return {key: environment.get(key) for key in keys}


def machine_folder(machine: Mapping[str, Any]) -> str:
    """A folder name that people can read:
    `NVIDIA-H100-80GB-HBM3_driver-580.159_cuda-13.0_torch-2.11.0+cu130_700W`.
    """
    version = f"torch-{machine.get('torch')}"
    if "gpu" in machine:
        power = machine.get("power_limit_w")
        limit = [f"{power:g}W"] if power else []
        parts = [
            machine["gpu"],
            f"driver-{machine.get('driver')}",
            f"cuda-{machine.get('cuda')}",
            version,
            *limit,
        ]
    else:
        parts = [
            machine.get("cpu") or "unknown-cpu",
            f"{machine.get('torch_threads')}-threads",
            version,
        ]
    return "_".join(_safe(str(part)) for part in parts)


def machine_sentence(machine: Mapping[str, Any]) -> str:
    """The machine in words:
    `NVIDIA H100 80GB HBM3, driver 580.159.04, CUDA 13.0, torch 2.11.0, 700 W`.
    """
    if "gpu" not in machine:
        return (
            f"{machine.get('cpu')}, {machine.get('torch_threads')} threads, torch "
            f"{machine.get('torch')}"
        )
    power = machine.get("power_limit_w")
    words = [
        str(machine["gpu"]),
        f"driver {machine.get('driver')}",
        f"CUDA {machine.get('cuda')}",
        f"torch {machine.get('torch')}",
    ]
    return ", ".join([*words, *([f"{power:g} W"] if power else [])])


def test_path(file: str, names: tuple[str, ...], measurement: str) -> PurePosixPath:
    """Where a measurement's baseline lies below its machine's folder.

    `tests/test_block.py`, ("TestGpu", "test_step[8-fp16]"), "decode" give
    `tests/test_block/TestGpu.test_step[8-fp16]@decode.json`. Where a character has to be replaced,
    or the name is too long for a file system, a digest of the full name keeps it unique.
    """
    name = ".".join(names) + (f"@{measurement}" if measurement else "")
    folders = [
        _folder(part)
        for part in PurePosixPath(file).with_suffix("").parts
        if part not in {"..", "/"}
    ]
    return PurePosixPath(*folders, f"{_unique(name, _UNSAFE.sub('_', name))}.json")


def _folder(part: str) -> str:
    return _unique(part, _safe(part))


def _unique(name: str, safe: str) -> str:
    """`safe`, with a digest of the name where it differs from that or is longer than file systems
    allow, in bytes.
    """
    short = safe.encode()[:_LONGEST].decode(errors="ignore")
    return name if short == name else f"{short}~{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _safe(text: str) -> str:
    return re.sub(r"[^\w.+\-]+", "-", text).strip("-") or "-"
