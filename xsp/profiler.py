"""The front door: `profile` for notebooks, `measure` for any callable."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar, overload

from torch import nn
from torch.optim import Optimizer
from typing_extensions import Unpack

from xsp.errors import TargetError
from xsp.levels._native.signals import held
from xsp.measuring import options as option_list
from xsp.measuring.along.loop import Loop, refuse_options
from xsp.measuring.call_recorder import CallRecorder
from xsp.measuring.options import Keywords, Options
from xsp.measuring.profiling import measure_target
from xsp.measuring.target import target_of
from xsp.profiles import Profile

_Documented = TypeVar("_Documented", bound=Callable[..., Any])


_PLACE = " Options are those of\n            `xsp.measuring.options.Options`."
"""What a docstring says of the options where the list of them takes its place."""


def _documented(function: _Documented) -> _Documented:
    """Give a function the options in its signature and their meaning in its text, for `help` and
    for notebooks; editors read the same from `Keywords`.
    """
    names = option_list.names()
    given = inspect.signature(function)
    own = [each for each in given.parameters.values() if each.kind is not each.VAR_KEYWORD]
    rest = [each for each in given.parameters.values() if each.name == "kwargs"]
    named = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Keywords.__annotations__[name],
        )
        for name in names
    ]
    told = [textwrap.fill(f"{name}: {option_list.help_of(name)}", 88) for name in names]
    text = textwrap.indent("\n".join(textwrap.indent(each, "    ")[4:] for each in told), " " * 8)
    function.__signature__ = given.replace(parameters=[*own, *named, *rest])  # type: ignore[attr-defined]
    function.__doc__ = (function.__doc__ or "").replace(_PLACE, "\n" + text)
    return function


@overload
def measure(
    fn_or_model: Callable[..., Any], *args: Any, **options: Unpack[Keywords]
) -> Profile: ...


@overload
def measure(fn_or_model: Callable[..., Any], *args: Any, **kwargs: Any) -> Profile: ...


@_documented
def measure(fn_or_model: Callable[..., Any], *args: Any, **kwargs: Any) -> Profile:
    """Profile `fn_or_model(*args, **kwargs)` at every level that can be traced here.

    The call is made again and again: warm-up, one structure run, then rounds of all rungs. A model
    is run from the same random state, buffers and flags each time and left as it was. A plain
    callable, for example a whole training step, is simply called again: what it changes
    (parameters, optimizer state, random state) stays changed. What the call leaves to be done is
    done inside the timed call: coroutines and futures are waited for, generators gone through.

    Args:
        fn_or_model: a torch.nn.Module or any callable.
        *args: its arguments.
        **kwargs: its keyword arguments; a keyword that is also an option goes through
            functools.partial. Options are those of
            `xsp.measuring.options.Options`.

    Raises TargetError if the target cannot be called or an option cannot have its value, LevelError
    for unknown levels, metrics or caches, and whatever the target raises.

    """
    options = Options.taken(kwargs)
    return measure_with(fn_or_model, args, kwargs, options)


def measure_with(
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    options: Options,
) -> Profile:
    """`measure` with options apart from the target's own keywords, whatever those are called."""
    return Profile(measure_target(target_of(function, args, kwargs), options))


class BlockProfile(Profile):
    """What `with xsp.profile(...) as prof` binds: a Profile that is filled when the block ends."""

    def __init__(self, on_step: Callable[[], None]) -> None:
        super().__init__()
        self._on_step = on_step
        self.groups: dict[str, Profile] = {}
        """Along a loop: profiles of other kinds of steps than this one's, each by what these do
        otherwise, such as `inputs of 7x8 instead of 16x8`. Filled when the block ends.
        """

    def step(self) -> None:
        """Say that a step of the block's own loop has ended: the loop is then measured as it goes,
        and nothing is run again.

        Raises TargetError on another thread than the block's, inside a torch function mode that
        was entered within the block, or with an option that needs runs of its own.
        """
        self._on_step()


class profile:  # noqa: N801 - used like a function: `with xsp.profile(model) as prof:`
    """Profile the calls of `model` made inside the block.

    The block itself runs once, undisturbed but for a hook that remembers how the model is called.
    When it ends, the calls are made again under the same grad, inference and autocast modes, at
    every rung; the model, its gradients and the random generators are then what they were at the
    end of the block. The object bound by `as` is a Profile that is filled when the block ends.
    Options are those of `measure`.

    A block that calls `prof.step()` at the end of each step of its own loop is measured along that
    loop instead: steps take the rungs in turn, nothing is run again, and once the numbers are
    precise nothing is traced any more. Steps of `optimizer`, one or several, are rows then. With
    `along=True` each call of the model is such a step, as in evaluation, and `prof.step()` is not
    called. With `along=` a method of an object, such as `engine.runner.execute_model`, each call of
    that method is a step, on whichever thread makes them; `kind`, given what the method is, may
    name the kind of such a step (`"decode"`), by which steps are grouped then instead of by the
    shapes that the model was given. Ctrl-C in the loop keeps the rounds that are complete.

    Raises TargetError at once if `model` is no torch.nn.Module or an option cannot have its value,
    LevelError for unknown levels, metrics or caches, and NothingRecordedError at the end of the
    block if the model was never called in a way that can be repeated. If the block raises, nothing
    is run again.
    """

    @_documented
    def __init__(
        self,
        model: nn.Module,
        *,
        optimizer: Optimizer | Sequence[Optimizer] | None = None,
        along: bool | Callable[..., Any] = False,
        kind: Callable[..., str] | None = None,
        **options: Unpack[Keywords],
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TargetError(
                f"xsp.profile() needs a torch.nn.Module, not {model!r} of type "
                f"{type(model).__name__}; "
                "for other callables use xsp.measure(callable, *args)"
            )
        self._options = Options.of(**options)
        self._model, self._optimizers, self._along = model, _optimizers(optimizer), along
        if self._optimizers and along:
            raise TargetError(
                "with along=True each call of the model is a step, so no optimizer can take part "
                "in one: leave out along, and call prof.step() at the end of each training step"
            )
        if kind is not None and not callable(along):
            raise TargetError(
                "kind= names the steps that are calls of a method: give that method as along="
            )
        self._kind = kind
        if self._optimizers or along:
            refuse_options(self._options)

    def __enter__(self) -> BlockProfile:
        accept = self._options.accept_changed
        self._recorder = CallRecorder(self._model, accept_changed=accept)
        self._loop = Loop(self._model, self._optimizers, self._options)
        self._profile = BlockProfile(self._step)
        try:
            with held():
                self._begin()
                # In here: a handler that raises after it would leave a block without its end.
                return self._profile
        except BaseException:
            self._recorder.stop()
            self._loop.close()
            raise

    def _begin(self) -> None:
        if callable(self._along):
            self._loop.follow_method(self._along, self._kind)
        elif self._along:
            self._loop.follow_calls()
        else:
            self._recorder.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            with held():
                self._recorder.stop()
                self._loop.close()
        except BaseException:
            self._recorder.stop()
            self._loop.close()
            raise
        interrupted = isinstance(error, KeyboardInterrupt) and self._loop.has_rounds
        if error is not None and not interrupted:
            return
        if self._loop.made or self._along:
            found = self._loop.captures(interrupted=interrupted)
            self._profile.fill(found.pop(""))
            self._profile.groups = {what: Profile(capture) for what, capture in found.items()}
            return
        recorder = self._recorder
        self._profile.fill(measure_target(recorder.target(), self._options, recorder.random))

    def _step(self) -> None:
        if self._along:
            raise TargetError(
                "prof.step() says where a step ends, and with along=True each call of the model is "
                "one (with a method, each of its calls): leave one of them out"
            )
        if not self._loop.made:
            with held():
                self._recorder.stop()
        self._loop.step()


def _optimizers(given: Any) -> tuple[Optimizer, ...]:
    several = given if isinstance(given, list | tuple) else () if given is None else (given,)
    for each in several:
        if not isinstance(each, Optimizer):
            raise TargetError(
                f"optimizer={each!r} of type {type(each).__name__}: must be a "
                "torch.optim.Optimizer or several; leave it out for a loop without one"
            )
    return tuple(several)
