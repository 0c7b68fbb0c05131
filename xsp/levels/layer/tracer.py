"""LAYER level: when each leaf module, each functional call outside leaf modules and each backward
node runs.

Timed runs write stamps and codes only; what a code stands for comes from the structure run
(`structure_run.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import torch
from torch import nn

from xsp.levels.layer import hotpath, parts
from xsp.levels.layer.autograd import ENGINE_CODE, Told, run_inside
from xsp.levels.layer.bindings import ExpectedCalls, can_be_followed
from xsp.levels.layer.custom_functions import functions_as_layers
from xsp.levels.layer.distributed import BucketStamps, collectives_as_layers
from xsp.levels.layer.entry_points import entry_point, step_in, step_in_by_hooks
from xsp.levels.layer.followed_calls import FollowedCalls, Functions
from xsp.levels.layer.function_mode import Codes, FunctionalMode
from xsp.levels.layer.mode_switch import OffInParts
from xsp.levels.layer.parts import Part
from xsp.levels.layer.ranges import RangeRecorder
from xsp.levels.layer.recorder import CallFollower, Recorder
from xsp.levels.layer.stamps import pair_stamps
from xsp.levels.layer.training_parts import TrainingParts
from xsp.types import Columns, Level, Tracer

MakeRecorder = Callable[[Callable[[Any], Any]], Recorder]
"""Given what finds the site of a torch function."""


def tracer_name(*, is_followed: bool | None = None) -> str:
    """What serves the LAYER level here, or in a profile in which functional calls are followed by
    torch's bindings or not.
    """
    followed = can_be_followed() if is_followed is None else is_followed
    functions = "torch's bindings" if followed else "torch function mode"
    return f"module calls, {functions}, autograd hooks ({hotpath.language()})"


class LayerTracer(Tracer):
    """Stamps layers around module calls, at calls of torch's bindings or in a torch function mode,
    and through hooks on autograd nodes.
    """

    level = Level.LAYER

    def __init__(
        self,
        codes: Codes,
        make_recorder: MakeRecorder = hotpath.recorder,
        names: Callable[[int], str | None] = lambda _code: None,
    ) -> None:
        self.name = tracer_name()
        self._codes, self._names = codes, names
        self._recorder = make_recorder(self._site_of_function)
        self._sites: dict[int, Any] = {}
        self._parts: dict[str, Any] = {}
        self._exit = ExitStack()
        self._functions: Functions | None = None
        self._followed: FollowedCalls | None = None
        self._not_begun = 0
        self._buckets: BucketStamps | None = None
        self._engine_runs = 0
        self._training = TrainingParts(codes.parts)
        self._off_in_parts = OffInParts(self._recorder)
        self._ranges = RangeRecorder(switch=self._recorder)
        if codes.ranges_are_layers:
            told = self._range_begins, self._range_ends, self._recorder.resume
            self._ranges = RangeRecorder(*told, switch=self._recorder)

    def start(self) -> None:
        """Step into the calls of the structure run's leaf modules and watch functional calls on
        this thread.
        """
        self._off_in_parts = OffInParts(self._recorder)
        self._exit.callback(self._let_go)
        functions = self._functions = self._watch_functions()
        for module, code in self._codes.modules.items():
            self._exit.callback(self._step_in(module, self._site(code)))
        self._exit.callback(hotpath.cheap_registration())
        self._exit.callback(run_inside(self._engine))
        self._exit.callback(functions_as_layers(functions, self._codes))
        self._exit.callback(collectives_as_layers(functions, self._codes))
        self._watch_buckets()
        self.new_run()
        # Twice, as in the structure run.
        self._exit.callback(functions.leave)
        self._exit.enter_context(functions)
        self._exit.callback(self._ranges.watch())
        self._exit.callback(parts.listen(self))
        self._exit.callback(self._training.watch())

    def new_run(self) -> None:
        """Count calls from zero again; called before every execution so that codes repeat from run
        to run. What was written before is forgotten.
        """
        self._ranges.new_run()
        self._training.new_run()
        self._engine_runs = 0
        for site in self._sites.values():
            site.new_run()
        self._recorder.forget_nodes()
        self._recorder.empty()
        self._not_begun = 0
        if self._functions is not None:
            self._functions.new_run()

    def stop(self) -> None:
        """Take back every change to modules and nodes, and the mode."""
        self._exit.close()

    def collect(self) -> dict[str, Columns]:
        """Tables `layer_events` (LAYER_EVENTS) and `ranges` (RANGES, the user's own); without what
        never ended.
        """
        self._note_strayed()
        stamps = self._recorder.stamps()
        self._recorder.empty()
        return {"layer_events": pair_stamps(stamps), "ranges": self._ranges.collect()}

    def last_layer(self) -> str | None:
        """Name of the layer that began or ended last; where an exception passed through, the one it
        came from.
        """
        last = self._recorder.last()
        return None if last is None else self._names(last >> 1)

    def lost(self) -> int:
        """Stamps for which there was no memory, and functional calls that were not seen because
        those before were not the structure run's.
        """
        return self._recorder.lost() + self._not_begun

    def starts_over(self) -> bool:
        """Whether that was so: from now on a torch function mode sees them."""
        return self._not_begun > 0

    def told(self) -> tuple[str, str]:
        """How functional calls were seen in the end, and why not by bindings."""
        is_followed = self.is_following()
        return tracer_name(is_followed=is_followed), "" if is_followed else self._why_mode()

    def is_following(self) -> bool:
        """Whether functional calls are told by calls of bindings, as far as is known now."""
        return isinstance(self._codes.calls, ExpectedCalls) and self._recorder.follows

    def _why_mode(self) -> str:
        """Empty where bindings could not be watched anyway: its language says that."""
        return str(self._codes.calls) if self._recorder.follows else ""

    def _watch_functions(self) -> Functions:
        """What sees functional calls: the calls of bindings, where it is known which they are."""
        recorder, calls = self._recorder, self._codes.calls
        told = self._codes, self._function_begins, self._function_ends
        if isinstance(calls, ExpectedCalls) and recorder.follows:
            if self._followed is None:
                follower = cast("CallFollower", recorder)
                self._followed = FollowedCalls(*told, follower, self._site, calls)
            return self._followed
        self._followed = None
        mode = FunctionalMode(*told, switch=recorder)
        # On the instance: torch then calls the handler itself, without Python between.
        mode.__dict__["__torch_function__"] = recorder.handler(mode)
        return mode

    def _note_strayed(self) -> None:
        strayed = None if self._followed is None else self._followed.strayed()
        if strayed is not None:
            self._codes.calls, self._not_begun = strayed.reason, max(strayed.not_begun, 1)

    def _let_go(self) -> None:
        self._recorder.forget_nodes()
        self._recorder.attach(None, -1)
        if isinstance(self._functions, FunctionalMode):
            self._functions.__dict__.pop("__torch_function__", None)
        self._functions = None

    def _site(self, code: int) -> Any:
        if code not in self._sites:
            plans = self._codes.plans.get(code, ())
            self._sites[code] = self._recorder.site(code, plans)
        return self._sites[code]

    def _site_of_function(self, function: Any) -> Any:
        code = self._codes.of_function(function)
        return None if code is None else self._site(code)

    def _step_in(self, module: nn.Module, site: Any) -> Callable[[], None]:
        recorder = self._recorder
        attribute = entry_point(module)
        if attribute is not None:
            return step_in(module, attribute, lambda call: recorder.layer(call, site))

        def before(*_: Any) -> None:
            recorder.suspend()
            recorder.stamp(2 * site.code)

        def after(_module: nn.Module, _args: Any, _kwargs: Mapping[str, Any], output: Any) -> None:
            recorder.stamp(2 * site.code + 1)
            recorder.adopt(site, output)
            recorder.resume()

        return step_in_by_hooks(module, before, after)

    def _watch_buckets(self) -> None:
        if self._codes.bucketed:
            self._buckets = BucketStamps(self._codes.bucketed, self._recorder.stamp)
            self._exit.callback(self._buckets.close)

    def _function_begins(self, code: int, _function: Any, _args: Any, _kwargs: Any) -> None:
        self._recorder.stamp(2 * code)

    def _function_ends(self, code: int, _function: Any, _args: Any, result: Any) -> None:
        self._recorder.stamp(2 * code + 1)
        self._recorder.adopt(self._site(code), result)

    def _range_begins(self, name: str, domain: str) -> None:
        self._recorder.suspend()
        self._recorder.stamp(2 * self._codes.of_range(name, domain))

    def _range_ends(self, name: str, domain: str) -> None:
        code = self._codes.of_range(name, domain)
        self._recorder.stamp(2 * code + 1)
        self._recorder.adopt(self._site(code), None)
        self._recorder.resume()

    def part_begins(self, part: Part) -> None:
        """See `Told`."""
        self._off_in_parts.begins(part)
        self._recorder.stamp(2 * self._site_of_part(part).code)

    def part_ends(self, part: Part) -> None:
        """See `Told`."""
        site = self._site_of_part(part)
        self._recorder.stamp(2 * site.code + 1)
        self._recorder.adopt(site, None)
        self._off_in_parts.ends()

    def _site_of_part(self, part: Part) -> Any:
        site = self._parts.get(part.name)
        if site is None:
            code = self._codes.of_range(part.name, parts.DOMAIN)
            site = self._parts[part.name] = self._site(code)
        return site

    def _watch_those_without_owner(self, roots: Sequence[torch.Tensor]) -> None:
        run, self._engine_runs = self._engine_runs, self._engine_runs + 1
        if run < len(self._codes.plans.get(ENGINE_CODE, ())):
            self._recorder.adopt(self._site(ENGINE_CODE), roots)

    @contextmanager
    def _engine(self, roots: Sequence[torch.Tensor]) -> Iterator[Told]:
        recorder, functions = self._recorder, self._functions
        given: list[Any] = []
        self._watch_those_without_owner(roots)
        if self._buckets is not None:
            self._buckets.engine_begins()
        recorder.stamp(2 * ENGINE_CODE)
        try:
            with ExitStack() as stack:
                if functions is not None:
                    stack.enter_context(functions.back_on())
                yield given.append
        finally:
            recorder.stamp(2 * ENGINE_CODE + 1)
            if functions is not None:
                functions.engine_ended(*given)


def is_following(tracer: Tracer) -> bool:
    """Whether this is a tracer of layers that tells functional calls by calls of bindings."""
    return isinstance(tracer, LayerTracer) and tracer.is_following()
