"""Steps of the user's own loop as runs of the ladder. Nothing is run again.

What one step is for comes from a generator (`following.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from torch import nn
from torch.optim import Optimizer

from xsp.capture.file import Capture
from xsp.errors import NothingRecordedError, TargetError, XspError
from xsp.levels._native.signals import held
from xsp.levels.kernel.cupti_clock import kept_clock
from xsp.levels.layer.entry_points import entry_point
from xsp.levels.layer.function_mode import FunctionalMode
from xsp.levels.layer.naming import is_leaf
from xsp.machine.dynamo_internals import compiled_from
from xsp.machine.torch_internals import modes
from xsp.measuring.along.following import Following, Steps
from xsp.measuring.along.groups import Group, Seen
from xsp.measuring.along.loop_thread import LoopThread, drop_what_was_left
from xsp.measuring.along.method import FollowedMethod, Labelling
from xsp.measuring.along.others import difference, label_of
from xsp.measuring.along.result import captured
from xsp.measuring.along.step_watch import Label, Step, StepWatch
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
    (`follow_calls`) or of a method (`follow_method`) is a step.

    The first call of `step` begins; `close` ends what is on, `captures` gives the result.
    """

    def __init__(self, model: nn.Module, optimizers: Sequence[Optimizer], options: Options) -> None:
        self.name = f"{type(model).__name__} step"
        self._model, self._options = model, options
        self._watch = StepWatch(model, optimizers)
        self._place = LoopThread(self._close_here)
        self._modes = modes()
        self._method: FollowedMethod | None = None
        self._refused: XspError | None = None
        self._is_over = False
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
        self._watch.on_call_begin = self._place.call_begins
        self._watch.on_call_end = self._call_ended
        self._go_on(None)

    def follow_method(self, method: Callable[..., Any], label: Labelling | None) -> None:
        """From now on each call of this bound method is a step, on the first thread that calls it;
        `label` says of what kind it is, given what the method is.

        Raises TargetError for what is no method of an object, or does not run to its end when it is
        called.
        """
        self._method = FollowedMethod(method, label, self._watch, self)
        self.name = f"{type(self._model).__name__} {self._method.name}"
        self._place.open_to_all()
        self._method.replace()

    def close(self) -> None:
        """Switch everything off; entered in `held()`. Where a call of the loop is going on on
        another thread, that one does it at the call's end.
        """
        self._place.close()

    def _close_here(self) -> None:
        steps, self._steps, self._is_over = self._steps, None, True
        self._watch.leave()
        if steps is not None:
            steps.close()
        # A thread on which a mode of ours is left drops it at its next call.
        if self._method is not None and not (steps and self._place.lives_elsewhere()):
            self._method.put_back()

    @property
    def has_rounds(self) -> bool:
        """Whether a round is complete."""
        return any(group.done.runs for group in self._groups)

    def captures(self, *, interrupted: bool = False) -> dict[str, Capture]:
        """What was measured, by what each kind of steps does otherwise than the most frequent one,
        whose capture comes first, under an empty string.

        Raises NothingRecordedError if the loop was too short for a round, or called the model only
        as torch.compile made it.
        """
        measured = [group for group in self._groups if group.done.runs]
        if self._is_called_as_compiled():
            raise NothingRecordedError(self._called_as_compiled())
        if not measured and self._refused is not None:
            raise self._refused
        if not measured:
            raise NothingRecordedError(self._too_short())
        main = max(measured, key=lambda group: self._seen.kinds[group.kind])
        label = label_of(main.kind)
        deadline = Deadline(0.0) if interrupted else Deadline.of(self._options)
        name = f"{self.name} ({label})" if label else self.name
        found = {"": self._captured(main, name, deadline, interrupted)}
        for group in measured:
            if group is not main:
                what = difference(main.kind, group.kind)
                told = f"{self.name} ({what})"
                found[what] = self._captured(group, told, deadline, interrupted)
        return found

    def _captured(self, group: Group, name: str, deadline: Deadline, interrupted: bool) -> Capture:
        known, others = replace(group.known, name=name), self._others_than(group)
        return captured(known, group.done, others, self.made, deadline, interrupted=interrupted)

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
        if self._steps is None or self._why_not_here():
            return
        with held(), self._place.call_ends() as goes_on:
            if goes_on:
                self._go_on(ended)

    def method_begins(self, label: Label | None) -> bool:
        """A call of the followed method begins, outside of every other; whether it is a step."""
        if self._place.claim():
            self._watch.move_here()
            self._modes = modes()
        elif self._place.is_elsewhere():
            return False
        elif self._steps is None:
            self._end_here()
            return False
        elif self._why_not_here():
            return False
        self._place.call_begins()
        self._watch.begin_call(label)
        return True

    def method_ends(self) -> None:
        """The call that was a step has returned or raised."""
        self.made += 1
        ended = self._watch.end() if self._steps is not None else None
        with held(), self._place.call_ends() as goes_on:
            if not goes_on or self._is_over:
                return
            try:
                self._go_on(ended)
            except XspError as error:
                # Raising here would be an error of the program's own call.
                self._refused = error
            if self._steps is None and self._method is not None:
                self._method.put_back()

    def _end_here(self) -> None:
        """The block has ended on another thread, while this one made no call."""
        drop_what_was_left()
        if self._method is not None:
            self._method.put_back()

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
        if self._place.is_elsewhere():
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
            undo.enter_context(kept_clock())
            undo.enter_context(in_call())
            undo.enter_context(executing())
            ranks = Ranks.together(alone=self._options.alone)
            ranks.same("options", {name: getattr(self._options, name) for name in _AGREED})
            deadline = Deadline.of(self._options)
            shown = undo.enter_context(phases(f"xsp {self.name}", self._options, deadline))
            followed = Following(self.name, self._model, self._options, self._seen, ranks)
            self._groups = followed.groups
            undo.enter_context(switched(followed.recorder.on_when_compiling()))
            undo.enter_context(switched(self._watch.on()))
            yield from followed.steps(deadline, shown)

    def _is_called_as_compiled(self) -> bool:
        """Whether no step called the model itself or a module of it that can be seen."""
        if self._watch.called or self._method is not None:
            return False
        compiled = compiled_from(self._model)
        modules = [row.type for group in self._groups for row in group.known.structure.modules]
        return compiled is not None and set(modules) <= {type(compiled).__name__}

    def _called_as_compiled(self) -> str:
        return (
            f"{type(self._model).__name__} was called only by what torch.compile made of it: give "
            "that to xsp.profile, so that its calls are seen, or compile the model in place with "
            "model.compile()"
        )

    def _too_short(self) -> str:
        if self._method is not None and not self.made:
            return self._method.never_called()
        if not self.made and self._watch.called_elsewhere:
            return (
                f"{self.name} was called on another thread only than the one that entered the "
                "block: give the method that makes a step there, as in "
                "xsp.profile(model, along=engine.runner.execute_model)"
            )
        known = self._groups[0].known if self._groups else None
        traced = self._options.levels if known is None else known.traced
        rungs = len(rungs_for(traced, self._options.ladder))
        often = max(self._seen.kinds.values(), default=0)
        other = self._seen.kinds.total() - often
        other += sum(group.other_layers.total() for group in self._groups)
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
