"""Progress bars for work that takes over a second, where somebody can see them."""

from __future__ import annotations

import sys
import warnings
from typing import NoReturn

from tqdm import TqdmWarning

with warnings.catch_warnings():
    # In a notebook without ipywidgets the bar is text; that is not a reason to greet everybody with
    # a warning.
    warnings.simplefilter("ignore", TqdmWarning)
    from tqdm.auto import tqdm

SHOW_AFTER_S = 1.0


class _Bar(tqdm):  # type: ignore[type-arg] # tqdm cannot be subscribed when it runs
    # tqdm's monitor is a thread that would outlive the bar and wake up in timed runs.
    monitor_interval = 0


def bar(title: str, total: int | None, show: bool | None, unit: str = "run") -> tqdm[NoReturn]:
    """A bar that appears after a second; `show=None` means only on a terminal or in a notebook."""
    visible = _someone_watches() if show is None else show
    shown: tqdm[NoReturn] = _Bar(
        desc=title,
        total=total,
        disable=not visible,
        delay=SHOW_AFTER_S,
        leave=False,
        unit=f" {unit}s",
    )
    return shown


def _someone_watches() -> bool:
    return "ipykernel" in sys.modules or sys.stderr.isatty()
