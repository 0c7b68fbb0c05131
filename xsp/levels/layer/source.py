"""The line of the program that a layer was called on."""

from __future__ import annotations

import sys
from functools import lru_cache
from pathlib import Path
from types import FrameType

import torch

_OWN = tuple(f"{Path(path).parent}/" for path in (torch.__file__, __file__))
_XSP = f"{Path(__file__).parents[2]}/"
_SKIPPED = (*_OWN, _XSP, "<")


def calling_line(above: int) -> str:
    """`path:line` of the innermost frame that is neither torch's nor xsp's, "" without one. The
    first `above` frames above this function's are known to be, and are passed over: each frame
    that is looked at becomes an object, which takes longer than all else here.
    """
    frame: FrameType | None = sys._getframe(above + 1)
    while frame is not None:
        path = frame.f_code.co_filename
        if _is_programs(path):
            return _line(path, frame.f_lineno)
        if frame.f_back is None:
            return ""
        frame = frame.f_back
    return ""


@lru_cache(maxsize=4096)
def _is_programs(path: str) -> bool:
    return not path.startswith(_SKIPPED)


@lru_cache(maxsize=4096)
def _line(path: str, number: int) -> str:
    # One text for all calls of a line.
    return f"{path}:{number}"
