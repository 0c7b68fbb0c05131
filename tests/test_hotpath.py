"""The twins of the layer tracer's hot paths: they write the same, allocate nothing that stays, and
leave nothing behind.
"""

from __future__ import annotations

import gc
import sys
import threading
import tracemalloc
from collections import OrderedDict
from typing import Any

import pytest
import torch
from quick import measured
from torch import nn
from torch.overrides import TorchFunctionMode

from xsp.levels.layer import hotpath
from xsp.levels.layer.discovery import Discovered, discovered
from xsp.levels.layer.recorder import PythonRecorder
from xsp.levels.layer.structure_run import StructureRecorder
from xsp.levels.layer.tracer import LayerTracer

needs_c = pytest.mark.skipif(hotpath.extension() is None, reason="the extension was not built")


class Block(nn.Module):
    """Leaf modules, functional calls, a residual sum, a layer that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.act = nn.Linear(4, 4), nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.act(self.first(self.first(x))) + x) * 2


def step_of(model: nn.Module, x: torch.Tensor) -> Any:
    def step() -> None:
        model(x).sum().backward()

    return step


def codes_of(program: Any) -> Any:
    """What a structure run finds."""
    found = Discovered()
    with discovered(found):
        program()
    with StructureRecorder(found) as recorder:
        recorder.new_run()
        program()
    return recorder.structure.codes


def run_traced(tracer: LayerTracer, program: Any) -> Any:
    """Its events after one execution."""
    tracer.start()
    try:
        tracer.new_run()
        program()
    finally:
        tracer.stop()
    return tracer.collect()["layer_events"]


@needs_c
def test_twins_write_the_same_events() -> None:
    """C and Python give the same codes in the same order, backward nodes included."""
    program = step_of(Block(), torch.randn(2, 4))
    codes = codes_of(program)
    in_c = run_traced(LayerTracer(codes, hotpath.c_recorder), program)
    in_python = run_traced(LayerTracer(codes, PythonRecorder), program)
    assert in_c["code"].tolist() == in_python["code"].tolist()
    assert (in_c["code"] >= 1 << 40).sum() == 7
    assert (in_c["end_ns"] > in_c["start_ns"]).all()


def test_profile_says_which_twin_ran(twin: str) -> None:
    """The tracer of LAYER in `prof.levels` ends with its language."""
    levels = measured(nn.Linear(2, 2), torch.randn(1, 2)).levels.set_index("level")
    assert str(levels["tracer"]["LAYER"]).endswith(f"({twin})")


@needs_c
def test_nothing_is_allocated_for_stamps_once_a_run_has_been_made() -> None:
    """The second run of a program writes its stamps where the first one's were."""
    layers = [nn.Identity() for _ in range(100)]

    def program() -> None:
        for _ in range(200):
            for layer in layers:
                layer(None)

    tracer = LayerTracer(codes_of(program), hotpath.c_recorder)
    tracer.start()
    program()
    tracer.new_run()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    program()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    tracer.stop()
    assert len(tracer.collect()["layer_events"]["code"]) == 20_000
    # One chunk of a log has 128 KiB; the two stamps of 20,000 calls 640 KiB.
    assert peak - before < 64 * 1024


def test_threads_write_their_own_logs(twin: str) -> None:
    """Stamps of four threads that run at once pair up, each thread's own."""
    layers = [nn.Identity() for _ in range(4)]
    program = lambda: [layer(None) for layer in layers]  # noqa: E731 - one line says it
    tracer = LayerTracer(codes_of(program))
    tracer.start()
    threads = [
        threading.Thread(target=lambda layer=layer: [layer(None) for _ in range(500)])
        for layer in layers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    tracer.stop()
    events = tracer.collect()["layer_events"]
    assert sorted(events["code"].tolist()) == sorted([*range(4)] * 500)
    for code in range(4):
        assert len(set(events["thread"][events["code"] == code])) == 1
    assert tracer.lost() == 0


def test_nothing_is_kept_after_many_runs(twin: str) -> None:
    """Reference counts of what a model consists of, and the number of objects, do not grow with the
    number of runs.
    """
    model, x = Block(), torch.randn(2, 4)
    program = step_of(model, x)
    tracer = LayerTracer(codes_of(program))

    def counts() -> tuple[int, ...]:
        gc.collect()
        held = (model, model.first, model.first.weight, x, torch.tanh, tracer)
        return (*map(sys.getrefcount, held), len(gc.get_objects()))

    for _ in range(3):
        run_traced(tracer, program)
    before = counts()
    for _ in range(20):
        run_traced(tracer, program)
    assert [after - then for after, then in zip(counts(), before, strict=True)][:-1] == [0] * 6
    assert counts()[-1] - before[-1] < 20


def test_tracer_that_is_dropped_is_freed(twin: str) -> None:
    """Nothing outside the tracer holds it when it is stopped, though its parts hold each other."""
    program = step_of(Block(), torch.randn(2, 4))
    codes = codes_of(program)
    gone: list[int] = []

    class Watched(LayerTracer):
        def __del__(self) -> None:
            gone.append(1)

    tracer = Watched(codes)
    run_traced(tracer, program)
    del tracer
    gc.collect()
    assert gone == [1]


def test_error_of_a_layer_passes_through_unchanged(twin: str) -> None:
    """What a module raises arrives as it was raised, and the mode is on again afterwards."""
    error = ValueError("no")

    class Failing(nn.Module):
        def forward(self, _x: Any) -> None:
            raise error

    failing, x = Failing(), torch.randn(2)

    def program() -> None:
        with pytest.raises(ValueError, match="no") as caught:
            failing(x)
        assert caught.value is error
        torch.relu(x)

    codes = codes_of(program)
    names = run_traced(LayerTracer(codes), program)["code"].tolist()
    assert len(names) == 2


def test_handler_takes_arguments_by_name(twin: str) -> None:
    """A mode of the user's may hand on a call by keywords, or leave `kwargs` out."""
    seen: list[Any] = []

    class Handing(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            return func(*args, **(kwargs or {}))

    def program() -> None:
        from torch.overrides import _get_current_function_mode

        mode = _get_current_function_mode()
        x = torch.ones(2)
        if mode is not None:
            called = mode.__torch_function__
            seen.append(called(torch.relu, (), args=(x,), kwargs={}))
            seen.append(called(torch.relu, (), (x,)))
            with pytest.raises(TypeError):
                called()
        with Handing():
            torch.relu(x)

    run_traced(LayerTracer(codes_of(program)), program)
    assert all(torch.equal(each, torch.ones(2)) for each in seen)
    assert len(seen) >= 2


def test_hooks_of_the_users_live_beside_the_tracers(twin: str) -> None:
    """A program's own hooks on the same graph nodes run, can be removed in any order, and are all
    that is left.
    """
    layer, x, ran = nn.Linear(4, 4), torch.randn(2, 4), []
    kept: list[Any] = []

    def program() -> None:
        output = layer(x).sum()
        node = output.grad_fn
        handles = [
            node.register_prehook(lambda _g: ran.append("before")),
            node.register_hook(lambda _i, _o: ran.append("after")),
            node.register_prehook(lambda _g: ran.append("never")),
        ]
        handles[2].remove()
        kept.append((output, handles))
        output.backward(retain_graph=True)

    tracer = LayerTracer(codes_of(program))
    kept.clear()
    ran.clear()
    events = run_traced(tracer, program)
    assert ran == ["before", "after"]
    assert (events["code"] >= 1 << 40).sum() == 2
    output, handles = kept[0]
    assert isinstance(handles[0].hooks_dict_ref(), OrderedDict)
    assert len(handles[0].hooks_dict_ref()) == 1
    for handle in handles:
        handle.remove()
    assert len(handles[0].hooks_dict_ref()) == 0
    output.backward()
    assert ran == ["before", "after"]


def test_graph_that_differs_from_the_structure_runs_is_survived(twin: str) -> None:
    """A run that gives other outputs than the structure run did stamps what it finds."""
    kinds = iter(["tuple", "tuple", "none", "short", "text"])

    class Changing(nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            kind = next(kinds, "tuple")
            outputs = {"tuple": (x.sin(), x.cos()), "none": None, "short": (x.sin(),), "text": "no"}
            return outputs[kind]

    changing, x = Changing(), torch.randn(2, requires_grad=True)

    def program() -> None:
        for output in changing(x) or ():
            if isinstance(output, torch.Tensor):
                output.sum().backward()

    codes = codes_of(program)
    tracer = LayerTracer(codes)
    for _ in range(3):
        run_traced(tracer, program)
    events = run_traced(tracer, program)
    assert (events["code"] < 1 << 20).sum() == 1
    assert (events["code"] >= 1 << 40).sum() == 4
