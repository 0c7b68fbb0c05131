"""Which of the layer tracer's twins runs: the extension in C where it was built, else Python."""

from __future__ import annotations

import sysconfig
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from xsp.levels.layer.autograd import node_of
from xsp.levels.layer.recorder import PythonRecorder, Recorder, leaf_of, watch_unknown
from xsp.levels.layer.ways import Plan
from xsp.machine.torch_internals import REGISTER_HOOK, mode_depth, pop_mode_in_c, push_mode_in_c


@cache
def extension() -> Any:
    """The module `_hotpath`, None where it was not built or does not fit this interpreter."""
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        # The interpreter's lock guards what its threads share; importing it would bring that back.
        return None
    try:
        return import_module("xsp.levels.layer._hotpath")
    except ImportError:
        return None


def language() -> str:
    """Of the twin that runs."""
    return "Python" if extension() is None else "C"


def recorder(site_of: Callable[[Any], Any]) -> Recorder:
    """A recorder of the faster twin. `site_of` gives the site of a torch function, None where it is
    no layer.
    """
    return PythonRecorder(site_of) if extension() is None else c_recorder(site_of)


def c_recorder(site_of: Callable[[Any], Any]) -> Recorder:
    """A recorder in C. Only where `extension` is there."""
    return _subclass()(site_of)  # type: ignore[no-any-return] # the class is made at run time


def cheap_registration() -> Callable[[], None]:
    """Hooks of recorders in C are put before nodes without torch's handle, until what is returned
    is called.
    """
    module = extension()
    if module is None or not REGISTER_HOOK.exists:
        return lambda: None
    return REGISTER_HOOK.replace(module.registrar(OrderedDict, REGISTER_HOOK.value))


@cache
def _subclass() -> Any:
    base: Any = extension().Recorder

    class CRecorder(base):  # type: ignore[misc] # the base is known at run time only
        """The C twin with what needs no speed."""

        follows = True

        def __new__(cls, site_of: Callable[[Any], Any]) -> Any:
            made: Any = super().__new__(
                cls,
                mode_depth=mode_depth,
                push=push_mode_in_c,
                pop=pop_mode_in_c,
                grad_enabled=torch.is_grad_enabled,
                tensor=torch.Tensor,
                parameter=nn.Parameter,
                site_of=site_of,
                unknown=lambda output: watch_unknown(made, output),
                found=leaf_of,
                made=node_of,
            )
            return made

        def site(self, code: int, plans: Sequence[Plan | None]) -> Any:
            packed = [None if plan is None else tuple(w.packed() for w in plan) for plan in plans]
            return super().site(code, packed)

        def stamps(self) -> npt.NDArray[np.int64]:
            parts = [
                _with_thread(np.frombuffer(stamps, dtype=np.int64).reshape(-1, 2), thread)
                for thread, stamps in self.logs()
            ]
            if len(parts) == 1:
                return parts[0]
            return np.concatenate([np.empty((0, 3), dtype=np.int64), *parts])

    return CRecorder


def _with_thread(stamps: npt.NDArray[np.int64], thread: int) -> npt.NDArray[np.int64]:
    return np.column_stack([stamps, np.full(len(stamps), thread, dtype=np.int64)])
