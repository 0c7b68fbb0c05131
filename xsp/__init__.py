"""xsp: an across-stack GPU profiler for PyTorch.

One trace from the model call to the GPU kernel, each level's latency free of the cost of tracing
the levels below.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

from xsp.errors import BaselineError as BaselineError
from xsp.errors import BudgetError as BudgetError
from xsp.errors import CaptureError as CaptureError
from xsp.errors import DatabaseError as DatabaseError
from xsp.errors import EvaluationError as EvaluationError
from xsp.errors import ExportError as ExportError
from xsp.errors import GraphError as GraphError
from xsp.errors import LevelError as LevelError
from xsp.errors import ManifestError as ManifestError
from xsp.errors import MissingPackageError as MissingPackageError
from xsp.errors import NothingRecordedError as NothingRecordedError
from xsp.errors import SettingError as SettingError
from xsp.errors import TargetError as TargetError
from xsp.errors import TracingError as TracingError
from xsp.errors import WriteError as WriteError
from xsp.errors import XspError as XspError

if TYPE_CHECKING:
    from xsp import analysis as analysis
    from xsp.brickwork.bricks import bricks as bricks
    from xsp.comparing.comparison import compare as compare
    from xsp.comparing.targets import compare_targets as compare_targets
    from xsp.distributed.job import Job as Job
    from xsp.distributed.job import merge as merge
    from xsp.examples.bundled import example as example
    from xsp.imports.kineto import from_kineto as from_kineto
    from xsp.imports.nsys import from_nsys as from_nsys
    from xsp.profiler import measure as measure
    from xsp.profiler import profile as profile
    from xsp.profiles import Profile as Profile
    from xsp.profiles import load as load
    from xsp.sweeping.measure import sweep as sweep
    from xsp.sweeping.result import Sweep as Sweep
    from xsp.sweeping.result import load_sweep as load_sweep
    from xsp.types import Level as Level

__all__ = [
    "BaselineError",
    "BudgetError",
    "CaptureError",
    "DatabaseError",
    "EvaluationError",
    "ExportError",
    "GraphError",
    "Job",
    "Level",
    "LevelError",
    "ManifestError",
    "MissingPackageError",
    "NothingRecordedError",
    "Profile",
    "SettingError",
    "Sweep",
    "TargetError",
    "TracingError",
    "WriteError",
    "XspError",
    "bricks",
    "compare",
    "compare_targets",
    "example",
    "from_kineto",
    "from_nsys",
    "load",
    "load_sweep",
    "measure",
    "merge",
    "profile",
    "sweep",
]


# What xsp does is told to the logger "xsp"; nothing is printed where the application sets up none.
logging.getLogger(__name__).addHandler(logging.NullHandler())

# Measuring needs torch and opening a capture needs pandas, which take seconds to import; the pytest
# plugin is loaded in every test run of an environment, and needs neither until a test measures
# something.
_HOME = {
    "Job": "distributed.job",
    "Level": "types",
    "Profile": "profiles",
    "Sweep": "sweeping.result",
    "bricks": "brickwork.bricks",
    "compare": "comparing.comparison",
    "compare_targets": "comparing.targets",
    "example": "examples.bundled",
    "from_kineto": "imports.kineto",
    "from_nsys": "imports.nsys",
    "load": "profiles",
    "load_ipython_extension": "magics",
    "load_sweep": "sweeping.result",
    "measure": "profiler",
    "merge": "distributed.job",
    "profile": "profiler",
    "sweep": "sweeping.measure",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        from xsp.extras import explained
        from xsp.importing import timed

        module = f"xsp.{_HOME[name]}"
        with explained(), timed(module):
            return getattr(import_module(module), name)
    if name == "analysis":
        return import_module("xsp.analysis")
    if name == "__version__":
        from xsp.machine.environment import version_of

        return version_of("xsp")
    raise AttributeError(f"module 'xsp' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME, "analysis"})
