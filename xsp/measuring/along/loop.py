"""Steps of the user's own loop as runs of the ladder. Nothing is run again.

What one step is for comes from a generator (`following.py`).
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

from torch import nn
from torch.optim import Optimizer

from xsp.capture.file import Capture
from xsp.errors import NothingRecordedError, TargetError
from xsp.levels._native.signals import held
from xsp.levels.layer.entry_points import entry_point
from xsp.levels.layer.function_mode import FunctionalMode
from xsp.levels.layer.naming import is_leaf
from xsp.machine.torch_internals import modes
from xsp.measuring.along.following import Following, Steps
from xsp.measuring.along.groups import Group, Seen
from xsp.measuring.along.others import difference
from xsp.measuring.along.result import captured
from xsp.measuring.along.step_watch import Step, StepWatch
from xsp.measuring.deadline import Deadline
from xsp.measuring.executor import executing, refuse_nested
from xsp.measuring.ladder import rungs_for
from xsp.measuring.options import Options
from xsp.measuring.progress import phases
from xsp.measuring.ranks import Ranks
from xsp.measuring.switching import switched
from xsp.measuring.turns import in_call, turn

_NEED_RUNS = ("metrics", "serialize", "nvtx", "restore", "captured_from")

_AGREED = ("levels", "iterations", "warmup", "seed", "ladder")
"""Options that ranks of one loop must share."""


class Loop:
    """A loop that calls `step` at the end of each of its steps, or of which each call of the model
    is a step (`follow_calls`).

    The first call of `step` begins; `close` ends what is on, `captures` gives the result.
    """

    def __init__(self, model: nn.Module, optimizers: Sequence[Optimizer], options: Options) -> None:
        self.name = f"{type(model).__name__} step"
        self._model, self._options = model, options
        self._watch = StepWatch(model, optimizers)
        self._thread = threading.get_ident()
        self._modes = modes()
        self._steps: Steps | None = None
        self._seen = Seen()
        self._groups: list[Group] = []
        self.made = 0

    def step(self) -> None:
        """A step of the loop has ended, and the next one begins.

        Raises TargetError where it cannot be followed: on another thread than the block's, or
        inside a torch function mode that was entered within the block.
        """
        self.made += 1
        if self.made > 1 and self._steps is None:
            return
        if why := self._why_not_here():
            raise TargetError(why)
        ended = self._watch.end() if self._steps is not None else None
        with held():
            self._go_on(ended)
            if self._steps is not None:
                self._watch.begin()

    def follow_calls(self) -> None:
        """From now on each outermost call of the model is a step; entered in `held()`.

        Raises TargetError for a model that is itself one layer: its tracing would have to be
        switched in the middle of the call.
        """
        if is_leaf(self._model) or entry_point(self._model) is None:
            raise TargetError(
                f"along=True cannot follow {type(self._model).__name__}, which is one layer (a "
                "module without others, a compiled or a scripted one): leave it out, and call "
                "prof.step() after each of its calls"
            )
        self.name = type(self._model).__name__
        self._watch.on_call_end = self._call_ended
        self._go_on(None)

    def close(self) -> None:
        """Switch everything off; entered in `held()`."""
        if self._steps is not None:
            self._steps.close()
            self._steps = None

    @property
    def has_rounds(self) -> bool:
        """Whether a round is complete."""
        return any(group.done.runs for group in self._groups)

    def captures(self, *, interrupted: bool = False) -> dict[str, Capture]:
        """What was measured, by what each kind of steps does otherwise than the most frequent one,
        whose capture comes first, under an empty string.

        Raises NothingRecordedError if the loop was too short for a round.
        """
        measured = [group for group in self._groups if group.done.runs]
        if not measured:
            raise NothingRecordedError(self._too_short())
        main = max(measured, key=lambda group: self._seen.kinds[group.kind])
        found = {"": self._captured(main, self.name, interrupted)}
        for group in measured:
            if group is not main:
                what = difference(main.kind, group.kind)
                found[what] = self._captured(group, f"{self.name} ({what})", interrupted)
        return found

    def _captured(self, group: Group, name: str, interrupted: bool) -> Capture:
        known, others = replace(group.known, name=name), self._others_than(group)
        return captured(known, group.done, others, self.made, interrupted=interrupted)

    def _others_than(self, group: Group) -> dict[str, int]:
        """How many steps did other work, by what it was."""
        found = dict(group.other_layers)
        for kind, number in self._seen.kinds.items():
            if what := difference(group.kind, kind):
                found[what] = found.get(what, 0) + number
        return found

    def _call_ended(self, ended: Step) -> None:
        self.made += 1
        # Raising here would be an error of the program's own call.
        if self._steps is not None and not self._why_not_here():
            with held():
                self._go_on(ended)

    def _go_on(self, ended: Step | None) -> None:
        try:
            if ended is None:
                self._steps = self._followed()
                next(self._steps)
            elif self._steps is not None:
                self._seen.note(ended.kind)
                self._steps.send(ended)
        except StopIteration:
            self._steps = None
        except BaseException:
            self._steps = None
            raise

    def _why_not_here(self) -> str:
        """Why the loop cannot be followed from here, empty where it can."""
        if threading.get_ident() != self._thread:
            return (
                "prof.step() was called on another thread than the one that entered the block: "
                "call it where the loop runs"
            )
        entered = [mode for mode in modes() if not isinstance(mode, FunctionalMode)]
        if entered == self._modes:
            return ""
        return (
            f"prof.step() was called inside {type(entered[-1]).__name__ if entered else 'none'}"
            ", a torch function mode that the block itself entered or left (such as `with "
            "torch.device(...)`): call prof.step() outside of it, or enter it before the block"
        )

    def _followed(self) -> Steps:
        refuse_nested(self.name)
        refuse_options(self._options)
        with ExitStack() as undo:
            undo.enter_context(turn(self.name))
            undo.enter_context(in_call())
            undo.enter_context(executing())
            ranks = Ranks.together(alone=self._options.alone)
            ranks.same("options", {name: getattr(self._options, name) for name in _AGREED})
            deadline = Deadline.of(self._options)
            shown = undo.enter_context(phases(f"xsp {self.name}", self._options, deadline))
            followed = Following(self.name, self._model, self._options, self._seen, ranks)
            self._groups = followed.groups
            undo.enter_context(switched(self._watch.on()))
            yield from followed.steps(deadline, shown)

    def _too_short(self) -> str:
        known = self._groups[0].known if self._groups else None
        traced = self._options.levels if known is None else known.traced
        rungs = len(rungs_for(traced, self._options.ladder))
        often = max(self._seen.kinds.values(), default=0)
        other = self._seen.kinds.total() - often
        others = f"; {other} were of other work" if other else ""
        return (
            f"the loop's {self.made} steps were too few to measure one round of {rungs} rungs, "
            f"which takes two steps each after the first ones{others}: let it make more steps, "
            "trace fewer levels, or give warmup=0"
        )


def refuse_options(options: Options) -> None:
    """Raise TargetError for an option that takes runs of its own."""
    for name in _NEED_RUNS:
        if getattr(options, name):
            raise TargetError(
                f"{name}={getattr(options, name)!r} needs runs of its own, and along a loop "
                "(prof.step()) nothing is run again: leave it out, or measure a step with "
                "xsp.measure(step)"
            )
