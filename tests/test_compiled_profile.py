"""Kernels of compiled code in a profile: which graph and which launch each of them is, where the
kernels of generated code are made up, and all that computes them on a GPU is not there.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import inductor_without_compiler
import pytest
import torch
from operations import OperationTracer, operations_are_kernels
from torch import nn

import xsp
from xsp.levels.kernel import tracer as kernel
from xsp.measuring.afterwards.compiled import expected_s

OPTIONS: dict[str, Any] = {"levels": "M/L/K", "iterations": 2, "warmup": 1, "progress": False}


class Kernels(OperationTracer):
    """Records what is launched while it is on."""

    on: ClassVar[set[Kernels]] = set()

    def start(self) -> None:
        self.on.add(self)

    def stop(self) -> None:
        self.on.discard(self)


def launched(*_arguments: Any) -> None:
    """A kernel of generated code, or of the program itself."""
    begin = time.perf_counter_ns()
    for tracer in Kernels.on:
        thread = threading.get_ident() & 0xFFFFFFFF
        tracer._log.append((thread, begin, time.perf_counter_ns()))


@pytest.fixture(autouse=True)
def _kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    operations_are_kernels(monkeypatch)
    monkeypatch.setattr(kernel, "KernelTracer", Kernels)
    monkeypatch.setattr(inductor_without_compiler, "_nothing", launched)
    with inductor_without_compiler.inductor_without_compiler(tmp_path):
        yield
    Kernels.on.clear()


class Broken(nn.Module):
    """Two graphs of one kernel each."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.tanh() + 1
        torch._dynamo.graph_break()
        return x.sigmoid() * 2


class Scaled(nn.Module):
    """One graph of one kernel."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.cos() * 3


class Program(nn.Module):
    """Kernels before compiled code, between two calls of it and after it."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.ModuleDict({"first": Broken(), "second": Scaled()})
        for each in self.body.values():
            each.compile(dynamic=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        launched()
        x = self.body["first"](x)
        launched()
        x = self.body["second"](x)
        launched()
        return x


def test_expected_times_are_those_of_all_runs() -> None:
    """Two of the deepest rung and five timed ones, each with one before that is not used."""
    assert expected_s(1e9) == 14.0
    assert expected_s(0.5e9) == 7.0


def test_every_kernel_of_a_graph_has_its_launch_and_the_others_have_none() -> None:
    """In order, by graph: kernels that the program launches itself are in no row."""
    with torch.no_grad():
        prof = xsp.measure(Program(), torch.ones(4, 8), **OPTIONS)
    assert not [each for each in prof.warnings if "not-led" in each]
    kernels, graphs = prof.table("compiled_kernels"), prof.compiled_graphs()
    assert graphs["graph"].tolist() == [0, 1, 2]
    assert set(graphs["phase"]) == {"forward"}
    assert graphs["calls"].tolist() == [1, 1, 1]
    # Of six kernels the first, the fourth and the last are the program's own.
    assert kernels["position"].tolist() == [1, 2, 4]
    assert kernels["graph"].tolist() == [0, 1, 2]
    assert kernels["launch"].tolist() == [0, 1, 2]
    assert prof.table("compiled_launches")["graph"].tolist() == [0, 1, 2]
    assert set(kernels["by"]) == {"place"}
    table = prof.compiled()
    assert table.drop_duplicates("graph")["kernels"].tolist() == [1, 1, 1]
    owners = table["layer"].str.partition("::")[0]
    assert owners.groupby(table["graph"]).unique().str.join(" ").tolist() == [
        "body.first",
        "body.first",
        "body.second",
    ]


def test_a_model_that_was_compiled_whole_has_the_names_that_it_has_by_itself() -> None:
    """Names begin below it, as they would if it were not compiled."""

    class Inner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act = nn.Tanh()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            output: torch.Tensor = self.act(x)
            return output

    model = Inner()
    model.compile(dynamic=False)
    with torch.no_grad():
        prof = xsp.measure(model, torch.ones(4, 8), **OPTIONS)
    assert set(prof.compiled()["layer"]) == {"act"}


def test_kernels_of_a_loop_have_their_launches() -> None:
    """As those of a target that is run again: by graph, and those of the program itself have none;
    where a step under watch runs other kernels, that is said and none is led.
    """
    more, steps = [False], [0]

    class Loop(Program):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            steps[0] += 1
            for _ in range(steps[0] if more[0] else 0):
                launched()
            return super().forward(x)

    model, x = Loop(), torch.ones(4, 8)
    options = OPTIONS | {"warmup": 0}
    for more[0] in (False, True):
        with torch.no_grad(), xsp.profile(model, along=True, **options) as prof:
            for _ in range(40):
                model(x)
        said = [each for each in prof.warnings if "not-led" in each]
        if more[0]:
            assert "the run in which they were looked for ran other kernels" in said[0]
            continue
        assert not said
        kernels = prof.table("compiled_kernels")
        assert kernels["position"].tolist() == [1, 2, 4]
        assert kernels["launch"].tolist() == [0, 1, 2]
        table = prof.compiled()
        assert table.drop_duplicates("graph")["kernels"].tolist() == [1, 1, 1]
        assert set(table["layer"].str.partition("::")[0]) == {"body.first", "body.second"}


def changing() -> Callable[[], int]:
    """How many kernels the program launches: one more in every later run."""
    runs: list[int] = []

    def more() -> int:
        runs.append(1)
        return len(runs)

    return more


def test_a_run_that_ran_other_kernels_leads_none_of_them() -> None:
    """Which kernel is which is then not known: that is said, and the launches are told alone."""
    more, net = changing(), torch.compile(lambda x: x.tanh() + 1, dynamic=False)

    def program(x: torch.Tensor) -> torch.Tensor:
        for _ in range(more()):
            launched()
        output: torch.Tensor = net(x)
        return output

    with torch.no_grad():
        prof = xsp.measure(program, torch.ones(4, 8), **OPTIONS)
    (said,) = (each for each in prof.warnings if "not-led" in each)
    assert "the run in which they were looked for ran other kernels" in said
    assert (prof.compiled()["kernels"] == 0).all()
    assert len(prof.compiled()) > 0
