"""What every test is held to: seeded, and leaving PyTorch as it found it."""

from __future__ import annotations

import os
import random
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import postgresql
import pytest
import torch
from hypothesis import settings
from torch._dynamo import eval_frame
from torch.nn.modules import module as torch_module
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack
from training_functions import training_functions
from virtual_clock import VirtualClock

import xsp
from xsp.cli import main
from xsp.levels import _native
from xsp.levels._native import interpose
from xsp.levels.layer import hotpath
from xsp.levels.library.launches import VARIABLE as LAUNCH_CHECK
from xsp.machine import torch_internals

# Helpers with assertions of their own, and fixtures that several test modules share.
pytest.register_assert_rewrite(
    "fake_counters", "fake_cupti", "fake_libraries", "perfetto_reader", "plugin_runs"
)

# Launches are counted at their import slots too: CUPTI is held to account wherever there is a GPU.
# Before the first scan of the loaded libraries: whether a function is watched is decided once.
os.environ.setdefault(LAUNCH_CHECK, "1")

# How long an example takes says nothing on a machine that others use too. A test run judges a
# change by the same examples each time; `make search` looks for others.
settings.register_profile("the same examples", deadline=None, derandomize=True)
settings.register_profile("other examples", deadline=None)
settings.load_profile("other examples" if "XSP_SEARCH" in os.environ else "the same examples")


def _global_hooks() -> dict[str, int]:
    """Names of PyTorch's process-wide module hook tables, with the number of hooks in each."""
    tables = (
        name
        for name in vars(torch_module)
        if name.startswith("_global_") and name.endswith("_hooks")
    )
    return {name: len(getattr(torch_module, name)) for name in tables}


def _patched_imports() -> int:
    """Import slots of loaded libraries that lead to the native part's stubs."""
    return (
        int(interpose.functions().xsp_interpose_patched()) if _native.why_missing() is None else 0
    )


def _patched_bindings() -> bool:
    """Whether calls of torch's functions in C go through entries of xsp."""
    extension = hotpath.extension()
    return extension is not None and bool(extension.bindings_are_open())


def _instrumentation() -> dict[str, Any]:
    """Everything process-wide by which a profiler could still be attached to this program."""
    return {
        "module hooks": _global_hooks(),
        "torch function modes": torch._C._len_torch_function_stack(),
        "torch dispatch modes": len(_get_current_dispatch_mode_stack()),
        "torch profiler enabled": torch_internals.is_profiling(),
        "module call": torch.nn.Module.__call__,
        "autograd engine": torch_internals.BACKWARD_ENGINE.value,
        "Dynamo entry": [
            getattr(eval_frame, name, None)
            for name in ("_callback_from_stance", "_maybe_set_eval_frame")
        ],
        "override question": torch.overrides.has_torch_function,
        "custom Functions": [
            vars(owner).get("apply")
            for owner in (
                torch.autograd.function._SingleLevelFunction,
                torch.autograd.function.BackwardCFunction,
            )
        ],
        "training functions": training_functions(),
        "patched imports": _patched_imports(),
        "patched bindings": _patched_bindings(),
        "sys profile function": sys.getprofile(),
        "threading profile function": threading.getprofile(),
    }


_PRISTINE = _instrumentation()


@pytest.fixture(autouse=True)
def nothing_left_attached() -> Iterator[None]:
    """Fail a test that starts or ends with hooks, modes or a profiler in place."""
    assert _instrumentation() == _PRISTINE
    yield
    assert _instrumentation() == _PRISTINE


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Same random numbers in every run of every test."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(params=["C", "Python"])
def twin(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The language of the layer tracer's hot paths during a test."""
    if request.param == "C" and hotpath.extension() is None:
        pytest.skip("the extension was not built for this Python")
    if request.param == "Python":
        monkeypatch.setattr(hotpath, "extension", lambda: None)
    return str(request.param)


@pytest.fixture
def virtual_clock(monkeypatch: pytest.MonkeyPatch) -> VirtualClock:
    """Time that passes only where a program sleeps."""
    clock = VirtualClock()
    clock.install(monkeypatch)
    return clock


@pytest.fixture
def refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Runs `xsp` with arguments that it refuses, with status 2 and one line, which it returns."""

    def line(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["xsp", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2
        [said] = capsys.readouterr().err.splitlines()
        return said

    return line


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[str]:
    """The URL of a PostgreSQL server that all tests of this process share."""
    programs = postgresql.programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed (apt-get install postgresql)")
    pytest.importorskip("psycopg", reason='the driver is missing (pip install "xsp[postgresql]")')
    with postgresql.running(programs) as url:
        yield url


@pytest.fixture(scope="session")
def profiles() -> dict[str, xsp.Profile]:
    """The captures recorded on an H100, by the names of their models."""
    folder = Path(__file__).parent.parent / "examples" / "captures"
    names = ("resnet50", "transformer", "train_step")
    return {name: xsp.load(folder / f"h100_{name}.xsp") for name in names}
