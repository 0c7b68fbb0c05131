"""Measuring a sweep: make the target for a value, profile it, let go of it, go on with the next
value.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from typing_extensions import Unpack

from xsp.errors import TargetError
from xsp.measuring.measurable import measurable
from xsp.measuring.options import Keywords, Options
from xsp.profiler import measure_with
from xsp.profiles import Profile
from xsp.sweeping.result import BATCH_SIZE, Sweep, Value


def sweep(
    make_target: Callable[..., Any],
    batch_sizes: Iterable[int] = (1, 2, 4, 8, 16, 32),
    *,
    over: Mapping[str, Iterable[Value]] | None = None,
    after: Callable[[Value, Profile | str], None] | None = None,
    **keywords: Unpack[Keywords],
) -> Sweep:
    """Profile what `make_target` makes, for one batch size after another.

    A value that fails, for example because the GPU's memory does not suffice, is kept as a failure
    with its reason, and the next one is tried. What was made for one value is let go before the
    next is made, and PyTorch's cache of GPU memory is emptied. Interrupted before the first round
    of a value, the sweep ends and keeps the values before it.

    Args:
        make_target: called as `make_target(batch_size)`; returns what a target of `xsp profile`
            returns, for example `(model, inputs)`. A model in evaluation mode is measured without
            gradients.
        batch_sizes: the values, in the order in which they are measured.
        over: another parameter instead, with its values: `over={"tokens": [128, 256]}` calls
            `make_target(tokens=128)`, then `make_target(tokens=256)`.
        after: called with each value and its profile, or the reason why there is none.
        **keywords: the options of `xsp.measure`, the same for every value.

    Raises TargetError if the values or options cannot be, or if every value fails.

    """
    return swept_over(
        make_target, batch_sizes, over=over, after=after, options=Options.of(**keywords)
    )


def swept_over(
    make_target: Callable[..., Any],
    batch_sizes: Iterable[Value],
    *,
    over: Mapping[str, Iterable[Value]] | None,
    after: Callable[[Value, Profile | str], None] | None,
    options: Options,
) -> Sweep:
    """`sweep` with options that are checked already; batch sizes are checked here."""
    parameter, values = _values(batch_sizes, over)
    profiles: dict[Value, Profile] = {}
    failures: dict[Value, str] = {}
    for place, value in enumerate(values):
        try:
            found = _outcome(
                make_target, {} if over is None else {parameter: value}, value, options
            )
        except KeyboardInterrupt:
            if not profiles:
                raise
            failures |= dict.fromkeys(values[place:], "not measured: the sweep was interrupted")
            break
        if isinstance(found, Profile):
            profiles[value] = found
        else:
            failures[value] = found
        _let_go()
        if after is not None:
            after(value, found)
    if not profiles:
        value, reason = next(iter(failures.items()))
        raise TargetError(
            f"every value of {parameter!r} failed; the first, {value!r}, with {reason}"
        )
    return Sweep(parameter, profiles, failures)


def _values(
    batch_sizes: Iterable[Value], over: Mapping[str, Iterable[Value]] | None
) -> tuple[str, list[Value]]:
    if over is None:
        over = {BATCH_SIZE: batch_sizes}
        rule, kinds = "whole numbers >= 1", (int,)
    else:
        rule, kinds = "numbers or strings", (int, float, str)  # type: ignore[assignment]
    if len(over) != 1:
        raise TargetError(
            f"a sweep is over one parameter, not {sorted(over)}; fix the others in make_target"
        )
    ((parameter, given),) = over.items()
    values = list(given)
    wrong = [value for value in values if not isinstance(value, kinds) or isinstance(value, bool)]
    wrong += [
        value
        for value in values
        if parameter == BATCH_SIZE and value not in wrong and not _is_size(value)
    ]
    if wrong or not values or len(set(values)) < len(values):
        raise TargetError(
            f"the values of {parameter!r} must be {rule}, at least one and without duplicates, "
            f"not {values!r}"
        )
    return parameter, values


def _is_size(value: Value) -> bool:
    return isinstance(value, int) and value >= 1


def _outcome(
    make_target: Callable[..., Any],
    named: Mapping[str, Value],
    value: Value,
    options: Options,
) -> Profile | str:
    """The profile, or why there is none. The exception is not kept: its frames hold the model and
    its tensors.
    """
    try:
        returned = make_target(**named) if named else make_target(value)
        work = measurable(
            returned, f"make_target({', '.join(f'{k}={v!r}' for k, v in named.items()) or value!r})"
        )
        with torch.set_grad_enabled(work.grad):
            return measure_with(work.function, work.args, work.kwargs, options)
    except Exception as error:  # the other values are wanted whatever this one raised
        return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def _let_go() -> None:
    """Modules and their hooks refer to each other, so memory comes back only when cycles are
    collected.
    """
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
