"""Progress bars for work that takes over a second, where somebody can see them."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from tqdm import tqdm

from xsp.measuring.deadline import Deadline
from xsp.measuring.options import Options
from xsp.words.labels import printable

SHOW_AFTER_S = 1.0

_log = logging.getLogger("xsp")


class _Bar(tqdm):  # type: ignore[type-arg] # tqdm cannot be subscribed when it runs
    # tqdm's monitor is a thread that would outlive the bar and wake up in timed runs.
    monitor_interval = 0


class _InNotebook(_Bar):
    """One output of the cell that is replaced again and again: what is written to its stream would
    be a line for each change in a notebook that is exported.
    """

    _handle: Any = None

    # tqdm says where, too, among bars on one terminal.
    def display(self, msg: str | None = None, pos: int | None = None) -> None:  # noqa: ARG002
        """Show the text, `msg` or the bar's own, in place of what was shown."""
        from IPython import display as shell

        show: Any = shell.display
        shown = {"text/plain": str(self) if msg is None else msg}
        if self._handle is None:
            self._handle = show(shown, raw=True, display_id=True)
        else:
            self._handle.update(shown, raw=True)


def bar(title: str, total: int | None, show: bool | None, unit: str = "run") -> tqdm[NoReturn]:
    """A bar that appears after a second; `show=None` means only on a terminal or in a notebook."""
    visible = _someone_watches() if show is None else show
    is_notebook = _is_notebook()
    kind = _InNotebook if is_notebook else _Bar
    shown: tqdm[NoReturn] = kind(
        desc=title,
        total=total,
        disable=not visible,
        delay=SHOW_AFTER_S,
        leave=False,
        unit=f" {unit}s",
        file=io.StringIO() if is_notebook else None,
        ascii=False if is_notebook else None,
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
    return _is_notebook() or sys.stderr.isatty()


def _is_notebook() -> bool:
    return "ipykernel" in sys.modules
