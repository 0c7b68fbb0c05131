"""The front door: `profile` for notebooks, `measure` for any callable."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any

from torch import nn

from xsp.errors import TargetError
from xsp.levels._native.signals import held
from xsp.measuring.call_recorder import CallRecorder
from xsp.measuring.profiling import climbed
from xsp.measuring.settings import Settings
from xsp.measuring.stopping import Stop
from xsp.measuring.target import target_of
from xsp.profiles import Profile
from xsp.types import Level


def measure(
    fn_or_model: Callable[..., Any],
    *args: Any,
    levels: str | Iterable[Level | str] | None = None,
    iterations: int | None = None,
    warmup: int | None = None,
    budget_s: float | None = None,
    seed: int = 0,
    progress: bool | None = None,
    serialize: bool | None = None,
    stop: Stop | None = None,
    metrics: str | Iterable[str] = (),
    caches: str = "in place",
    nvtx: bool = False,
    ranges_as_layers: bool = False,
    **kwargs: Any,
) -> Profile:
    """Profile `fn_or_model(*args, **kwargs)` at every level that can be traced here.

    The call is made again and again: warm-up, one structure run, then rounds of all rungs. A model
    is run from the same random state, buffers and flags each time and left as it was. A plain
    callable, for example a whole training step, is simply called again: what it changes
    (parameters, optimizer state, random state) stays changed.

    Args:
        fn_or_model: a torch.nn.Module or any callable.
        *args: its arguments.
        **kwargs: its keyword arguments; a keyword that `measure` has too goes through
            functools.partial.
        levels: levels to trace, such as "M/L/K" or ["LAYER"]; all by default.
        iterations: rounds, each with one timed run per rung; by default as many as it takes to know
            the model latency to within 1 % (95 %), at most `budget_s` seconds.
        warmup: warm-up runs; by default until the latency has settled.
        budget_s: seconds for the rounds when `iterations` is not given; 30 by default.
        seed: seed of the order of rungs within rounds.
        progress: show a progress bar; by default only when it takes long and someone can see it.
        serialize: also run with the device synchronised after every layer, so that no two layers
            overlap (`Profile.serialized`); by default only where kernels of different layers were
            seen to overlap.
        stop: a stopping rule instead of `iterations`: given all runs so far, after a whole round,
            None to go on or a sentence that says why enough is known. `xsp.measuring.stopping` has
            those that are used by default.
        metrics: hardware counters to collect for every kernel, in runs of their own: groups
            ("flops", "dram", "occupancy", "tensor", "l2") and CUPTI metrics such as
            "dram__bytes_read.sum"; none by default.
        caches: while counters are collected, "in place" (a kernel finds the caches as in the
            program) or "flushed" (empty, as Nsight Compute has them unless told otherwise).
        nvtx: execute the target once more, untimed, with NVTX ranges of domain "xsp" around model
            calls and layers, for Nsight Systems and Compute.
        ranges_as_layers: take the target's own NVTX ranges as layers, for code without modules.

    Raises TargetError if the target cannot be called, LevelError for unknown levels, metrics or
    caches, and whatever the target raises.

    """
    settings = Settings.of(
        levels,
        iterations,
        warmup,
        budget_s,
        seed,
        progress,
        serialize,
        stop,
        metrics,
        caches,
        nvtx,
        ranges_as_layers,
    )
    return Profile(climbed(target_of(fn_or_model, args, kwargs), settings))


class profile:  # noqa: N801 - used like a function: `with xsp.profile(model) as prof:`
    """Profile the calls of `model` made inside the block.

    The block itself runs once, undisturbed but for a hook that remembers how the model is called.
    When it ends, the calls are made again under the same grad, inference and autocast modes, at
    every rung; the model, its gradients and the random generators are then what they were at the
    end of the block. The object bound by `as` is a Profile that is filled when the block ends.
    Options are those of `measure`.

    Raises TargetError at once if `model` is no torch.nn.Module, and NothingRecordedError at the end
    of the block if the model was never called in a way that can be repeated. If the block raises,
    nothing is run again.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        levels: str | Iterable[Level | str] | None = None,
        iterations: int | None = None,
        warmup: int | None = None,
        budget_s: float | None = None,
        seed: int = 0,
        progress: bool | None = None,
        serialize: bool | None = None,
        stop: Stop | None = None,
        metrics: str | Iterable[str] = (),
        caches: str = "in place",
        nvtx: bool = False,
        ranges_as_layers: bool = False,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TargetError(
                f"xsp.profile() needs a torch.nn.Module, not {model!r} of type "
                f"{type(model).__name__}; "
                "for other callables use xsp.measure(callable, *args)"
            )
        self._settings = Settings.of(
            levels,
            iterations,
            warmup,
            budget_s,
            seed,
            progress,
            serialize,
            stop,
            metrics,
            caches,
            nvtx,
            ranges_as_layers,
        )
        self._model = model

    def __enter__(self) -> Profile:
        self._recorder = CallRecorder(self._model)
        self._profile = Profile()
        try:
            with held():
                self._recorder.start()
        except BaseException:
            self._recorder.stop()
            raise
        return self._profile

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with held():
            self._recorder.stop()
        if error is None:
            self._profile.fill(
                climbed(self._recorder.target(), self._settings, self._recorder.random)
            )
