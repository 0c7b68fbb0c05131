"""The steps of optimizers in a program that knows nothing of xsp: which optimizers take turns, and
where a step of the loop ends.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from xsp.levels.layer.compiled import aside_in_compiled_code
from xsp.levels.layer.optimizer_parts import StepHook
from xsp.machine.dynamo_internals import DYNAMO_ENTRIES
from xsp.running.first_import import when_imported

OnTurn = Callable[[list[Optimizer]], None]


class OptimizerTurns:
    """Tells once which optimizers make a step of the loop together: those that have stepped when
    the first of them steps again.
    """

    def __init__(self, tell: OnTurn) -> None:
        self._tell = tell
        self._seen: list[Optimizer] = []
        self._undo = ExitStack()

    def start(self) -> None:
        """Watch from now on, but for what compiled code does: Dynamo would compile the hook too."""
        hook = StepHook(register_optimizer_step_post_hook(self._stepped), self._stepped)
        undo = self._undo
        undo.callback(hook.remove)

        def keep_aside() -> None:
            undo.callback(aside_in_compiled_code(hook.take_out, hook.put_in))

        undo.callback(when_imported(DYNAMO_ENTRIES, keep_aside))

    def stop(self) -> None:
        """Watch no more."""
        self._undo.close()

    @property
    def any_seen(self) -> bool:
        """Whether one has stepped."""
        return bool(self._seen)

    def _stepped(self, optimizer: Optimizer, *_: Any) -> None:
        if not any(each is optimizer for each in self._seen):
            self._seen.append(optimizer)
        elif optimizer is self._seen[0]:
            found = self._seen
            self.stop()
            self._tell(found)


def after_each_step(optimizer: Optimizer, tell: Callable[[], None]) -> Callable[[], None]:
    """Call `tell` after each call of `optimizer.step` that returns, outside of it; returns what
    ends this.
    """
    own = vars(optimizer)
    before = {name: own[name] for name in ("step",) if name in own}
    real = optimizer.step

    # With the real one's attributes: schedulers look for theirs.
    @functools.wraps(real)
    def step(*args: Any, **kwargs: Any) -> Any:
        result = real(*args, **kwargs)
        tell()
        return result

    own["step"] = step

    def restore() -> None:
        # A scheduler that was made meanwhile has put its own around it, which stays.
        if own.get("step") is step:
            del own["step"]
            own.update(before)

    return restore
