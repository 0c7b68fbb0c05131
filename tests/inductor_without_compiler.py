"""Inductor without a C++ compiler: everything is generated, but its C++ kernels compute nothing.

What a kernel stands for does not depend on what it computes, and compiling one takes seconds.
"""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch


def _nothing(*_arguments: Any) -> None:
    """What stands for a compiled kernel."""


@contextmanager
def inductor_without_compiler(folder: Path) -> Iterator[None]:
    """Programs compiled in this block keep their code in `folder`, and compute garbage."""
    from torch._inductor import config
    from torch._inductor.async_compile import AsyncCompile

    def instead(*_arguments: Any, **_keywords: Any) -> Any:
        return _nothing

    _forget()
    with (
        patch.dict("os.environ", {"TORCHINDUCTOR_CACHE_DIR": str(folder)}),
        patch.object(AsyncCompile, "cpp_pybinding", instead),
        # No processes that wait for something to compile.
        config.patch(compile_threads=1),
        # Where a test's log is captured, torch writes down every graph for it.
        patch.object(logging.getLogger("torch.__trace"), "disabled", True),
    ):
        yield
    _forget()


def _forget() -> None:
    """Let go of what was compiled, of which cycles would keep some. What Dynamo put behind a graph
    break stays in the globals of the module that was compiled, also after its reset.
    """
    torch._dynamo.reset()
    for module in list(sys.modules.values()):
        own = getattr(module, "__dict__", {})
        for name in [name for name in own if str(name).startswith("__compiled_fn")]:
            del own[name]
    gc.collect()
