"""Progress bars for work that takes over a second, where somebody can see them."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from tqdm import TqdmWarning

from xsp.measuring.deadline import Deadline
from xsp.measuring.options import Options
from xsp.words.labels import printable

with warnings.catch_warnings():
    # In a notebook without ipywidgets the bar is text; that is not a reason to greet everybody with
    # a warning.
    warnings.simplefilter("ignore", TqdmWarning)
    from tqdm.auto import tqdm

SHOW_AFTER_S = 1.0

_log = logging.getLogger("xsp")


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


_TIMED = "{desc}: {percentage:3.0f}%|{bar}| at most {remaining} left"


class Phases:
    """One bar for a whole profile: the phase that it is in, and how much is left of its time or,
    where their number was given, of its rounds.
    """

    def __init__(self, shown: tqdm[NoReturn], title: str, deadline: Deadline) -> None:
        self._shown, self._title, self._deadline = shown, title, deadline

    def begin(self, phase: str) -> None:
        """Name what is done from now on."""
        _log.info("%s: %s", printable(self._title.removeprefix("xsp ")), phase)
        self._shown.set_description_str(f"{self._title}: {phase}", refresh=False)
        self.step()

    def step(self, rounds: int = 0) -> None:
        """Something was done, and with it so many rounds."""
        if self._deadline.is_limited:
            elapsed_s = min(self._deadline.elapsed_s, self._deadline.budget_s)
            self._shown.update(elapsed_s - self._shown.n)
        else:
            self._shown.update(rounds)


@contextmanager
def phases(title: str, options: Options, deadline: Deadline) -> Iterator[Phases]:
    """The bar of a profile that begins."""
    if deadline.is_limited:
        shown = bar(title, None, options.progress)
        shown.total, shown.bar_format = deadline.budget_s, _TIMED
    else:
        shown = bar(title, options.iterations, options.progress, "round")
    with shown:
        yield Phases(shown, title, deadline)


def _someone_watches() -> bool:
    return "ipykernel" in sys.modules or sys.stderr.isatty()
