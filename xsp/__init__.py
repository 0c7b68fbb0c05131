"""xsp: an across-stack GPU profiler for PyTorch.

One trace from the model call to the GPU kernel, each level's latency free of the cost of tracing the levels below.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xsp.errors import CaptureError as CaptureError
from xsp.errors import ExportError as ExportError
from xsp.errors import LevelError as LevelError
from xsp.errors import NothingRecordedError as NothingRecordedError
from xsp.errors import TargetError as TargetError
from xsp.errors import TracingError as TracingError
from xsp.errors import XspError as XspError
from xsp.profiles import Profile as Profile
from xsp.profiles import load as load
from xsp.types import Level as Level

if TYPE_CHECKING:
    from xsp.imports.kineto import from_kineto as from_kineto
    from xsp.imports.nsys import from_nsys as from_nsys
    from xsp.profiler import measure as measure
    from xsp.profiler import profile as profile
    from xsp.sweeping import sweep as sweep
    from xsp.sweeps import Sweep as Sweep
    from xsp.sweeps import load_sweep as load_sweep

__all__ = [
    "CaptureError",
    "ExportError",
    "Level",
    "LevelError",
    "NothingRecordedError",
    "Profile",
    "Sweep",
    "TargetError",
    "TracingError",
    "XspError",
    "from_kineto",
    "from_nsys",
    "load",
    "load_sweep",
    "measure",
    "profile",
    "sweep",
]


def __getattr__(name: str) -> Any:
    # Measuring needs torch, which takes seconds to import; opening a capture does not.
    if name in {"measure", "profile"}:
        from xsp import profiler

        return getattr(profiler, name)
    if name == "from_kineto":
        from xsp.imports.kineto import from_kineto

        return from_kineto
    if name == "from_nsys":
        from xsp.imports.nsys import from_nsys

        return from_nsys
    if name == "sweep":
        from xsp import sweeping

        return sweeping.sweep
    if name in {"Sweep", "load_sweep"}:
        from xsp import sweeps

        return getattr(sweeps, name)
    if name == "__version__":
        from xsp.environment import version_of

        return version_of("xsp")
    raise AttributeError(f"module 'xsp' has no attribute {name!r}")
