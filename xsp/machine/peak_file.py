"""What `xsp doctor --measure` measured, kept in one file of the user's and found again by
device.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xsp.capture.limits import text_of
from xsp.capture.rules import mapping, real
from xsp.capture.writing import write_file
from xsp.errors import CaptureError


def path() -> Path:
    """`xsp/measured_peaks.json` in the user's cache folder (XDG Base Directory Specification)."""
    cache = os.environ.get("XDG_CACHE_HOME", "")
    folder = Path(cache) if os.path.isabs(cache) else Path.home() / ".cache"
    return folder / "xsp" / "measured_peaks.json"


def device_key(environment: Mapping[str, Any]) -> str:
    """The device that peaks belong to: a GPU with its driver, or else a CPU with the number of
    PyTorch's threads.
    """
    if "gpu" in environment:
        return f"{environment['gpu']}, driver {environment.get('driver')}"
    return f"{environment.get('cpu')}, {environment.get('torch_threads')} threads"


def read_peaks(device: str) -> dict[str, float]:
    """The peaks of a device, FLOP/s and bytes/s; empty where none were measured or the file cannot
    be read.
    """
    peaks = _every().get(device, {})
    return {} if _PEAKS(peaks) else dict(peaks)


_PEAKS = mapping(real(0))


def keep_peaks(device: str, peaks: Mapping[str, float]) -> Path:
    """Keep the peaks of a device, in place of older ones.

    Raises WriteError if the file cannot be written, OSError if its folder cannot be made.
    """
    target = path()
    target.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_every() | {device: dict(peaks)}, indent=1) + "\n"
    return write_file(target, text.encode())


def _every() -> dict[str, Any]:
    try:
        found = json.loads(text_of(path()))
    # RuntimeError: no home directory is known, or lists in lists without end
    except (OSError, ValueError, RuntimeError, CaptureError):
        return {}
    return found if isinstance(found, dict) else {}
