"""NVTX both ways: xsp's spans as ranges for other tools, and the user's own ranges in a profile."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import nvtx
import pandas as pd
import pytest
import torch
from quick import LAYERS, QUICK, measured, profiled
from torch import nn
from torch.nn import functional
from torch.profiler import record_function

import xsp
from xsp.machine import torch_internals


class FakeNvtx:
    """What torch calls in a CUDA build; without a tool attached NVTX gives every range the
    same id.
    """

    def __init__(self) -> None:
        self.depth = 0

    def rangePushA(self, message: str) -> int:
        self.depth += 1
        return self.depth - 1

    def rangePop(self) -> int:
        self.depth -= 1
        return self.depth

    def rangeStartA(self, message: str) -> int:
        return 0

    def rangeEnd(self, identity: int) -> None:
        pass


@pytest.fixture
def torch_nvtx(monkeypatch: pytest.MonkeyPatch) -> FakeNvtx:
    """NVTX for torch.cuda.nvtx, which builds without CUDA lack."""
    fake = FakeNvtx()
    monkeypatch.setattr(torch.cuda.nvtx, "_nvtx", fake)
    return fake


class Tool:
    """A domain as it is with a tool attached: notes what is opened and closed, and on which
    thread.
    """

    def __init__(self) -> None:
        self.open: dict[int, list[str]] = {}
        self.paths: list[str] = []
        self.started: dict[int, str] = {}

    def get_event_attributes(self, message: str) -> str:
        return message

    def push_range(self, message: str) -> None:
        stack = self.open.setdefault(threading.get_ident(), [])
        stack.append(message)
        self.paths.append("/".join(stack))

    def pop_range(self) -> None:
        self.open[threading.get_ident()].pop()

    def start_range(self, message: str) -> int:
        self.paths.append(message)
        self.started[len(self.paths)] = message
        return len(self.paths)

    def end_range(self, identity: int) -> None:
        del self.started[identity]


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> Tool:
    """A tool that collects domain `xsp`."""
    tool, get_domain = Tool(), nvtx.get_domain
    monkeypatch.setattr(
        nvtx, "get_domain", lambda name=None: tool if name == "xsp" else get_domain(name)
    )
    return tool


class Net(nn.Module):
    """Two layers and a functional call."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.act = nn.Linear(4, 4), nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.act(self.fc(x)) + 1
        return output


def names(prof: xsp.Profile) -> list[str]:
    """Names of the ranges of the last run that traced layers, by their start."""
    ranges = prof.ranges
    return list(ranges[ranges["run"] == ranges["run"].max()].sort_values("start_ns")["name"])


def test_layers_are_ranges_below_their_model(tool: Tool) -> None:
    """nvtx=True makes one execution in which each layer is a range inside its model call's, and
    leaves none open.
    """
    prof = xsp.measure(Net(), torch.randn(2, 4), nvtx=True, **LAYERS)
    assert tool.paths == ["Net", "Net/fc", "Net/act", "Net/::add"]
    assert not any(tool.open.values())
    assert {"fc", "act", "::add"} <= set(prof.spans["name"])


def test_backward_nodes_are_ranges(tool: Tool) -> None:
    """A training step's backward nodes are ranges named after their layers, and all of them end."""
    model = Net()
    xsp.measure(lambda: model(torch.randn(2, 4)).sum().backward(), nvtx=True, **LAYERS)
    assert {"fc (bwd)", "act (bwd)"} <= set(tool.paths)
    assert tool.started == {}
    assert not any(tool.open.values())


def test_only_model_ranges_without_layers(tool: Tool) -> None:
    """Where layers are not traced, the model call alone is a range."""
    xsp.measure(Net(), torch.randn(2, 4), nvtx=True, levels="M", **QUICK)
    assert tool.paths == ["Net"]


def test_no_ranges_unless_asked_for(tool: Tool) -> None:
    """Without nvtx=True no range is made."""
    profiled(Net(), torch.randn(2, 4))
    assert tool.paths == []


def test_ranges_end_when_the_model_raises(tool: Tool) -> None:
    """If the target raises in that execution, its ranges are closed and the exception passes
    through.
    """

    def sometimes(x: torch.Tensor) -> torch.Tensor:
        if tool.paths:
            raise RuntimeError("out of luck")
        return x + 1

    with pytest.raises(RuntimeError, match="out of luck"):
        xsp.measure(sometimes, torch.ones(2), nvtx=True, **LAYERS)
    assert not any(tool.open.values())


def annotated(x: torch.Tensor) -> torch.Tensor:
    """Ranges of the nvtx package, nested, in two domains."""
    with nvtx.annotate("outer", domain="mine"):
        x = functional.relu(x)
        nvtx.push_range("inner")
        x = x * 2
        nvtx.pop_range()
    return x


def test_ranges_of_the_nvtx_package_are_captured() -> None:
    """Context managers and push/pop of the nvtx package are rows of prof.ranges, with domain,
    thread and times.
    """
    prof = measured(annotated, torch.ones(8))
    ranges = prof.ranges
    assert names(prof) == ["outer", "inner"]
    assert dict(zip(ranges["name"], ranges["domain"], strict=True)) == {
        "outer": "mine",
        "inner": "NVTX",
    }
    assert set(ranges["rung"]) == {"M/L"}
    spans = prof.spans
    model = spans[spans["level"] == "MODEL"].set_index("run").loc[ranges["run"]]
    assert (ranges["start_ns"].to_numpy() >= model["start_ns"].to_numpy()).all()
    assert (ranges["end_ns"].to_numpy() <= model["end_ns"].to_numpy()).all()
    assert set(ranges["thread"]) == set(model["thread"])


def test_ranges_of_torch_are_captured(torch_nvtx: FakeNvtx) -> None:
    """torch.cuda.nvtx: push and pop, the context manager, and ranges that are started and ended."""

    def target(x: torch.Tensor) -> torch.Tensor:
        first = torch.cuda.nvtx.range_start("first")
        second = torch.cuda.nvtx.range_start("second")
        with torch.cuda.nvtx.range("block {}", 3):
            torch.cuda.nvtx.range_push("pushed")
            x = x + 1
            torch.cuda.nvtx.range_pop()
        torch.cuda.nvtx.range_end(first)
        torch.cuda.nvtx.range_end(second)
        return x

    prof = measured(target, torch.ones(8))
    assert names(prof) == ["first", "second", "block 3", "pushed"]
    assert torch_nvtx.depth == 0
    assert torch_internals.NVTX.value is torch_nvtx


def test_ranges_of_record_function_are_captured() -> None:
    """`record_function` as a block and as a decorator are rows of prof.ranges, told apart from
    NVTX; what torch opens itself, an optimizer's step, is not the program's.
    """

    @record_function("decorated")
    def inner(x: torch.Tensor) -> torch.Tensor:
        return x + 1

    layer = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(layer.parameters(), 0.1)

    def target(x: torch.Tensor) -> torch.Tensor:
        with record_function("block"), nvtx.annotate("other", domain="mine"):
            x = inner(x)
        optimizer.step()
        return x

    ranges = measured(target, torch.ones(8)).ranges
    last = ranges[ranges["run"] == ranges["run"].max()].sort_values("start_ns")
    assert last[["name", "domain", "source"]].to_numpy().tolist() == [
        ["block", "", "record_function"],
        ["other", "mine", "nvtx"],
        ["decorated", "", "record_function"],
    ]


def test_ranges_of_record_function_are_layers_when_asked(tmp_path: Path) -> None:
    """With ranges_as_layers=True they are layers as NVTX ranges are, also in a saved capture, and a
    trace has them beside the hierarchy.
    """

    def target(x: torch.Tensor) -> torch.Tensor:
        with record_function("outer"):
            x = x * 2
            with record_function("inner"):
                return x + 1

    prof = xsp.measure(target, torch.ones(8), ranges_as_layers=True, **LAYERS)
    spans = prof.spans
    assert set(spans.loc[spans["level"] == "LAYER", "name"]) == {"outer", "inner"}
    loaded = xsp.load(prof.save(tmp_path / "a.xsp"))
    pd.testing.assert_frame_equal(loaded.ranges, prof.ranges)
    prof.to_chrome(tmp_path / "a.json", rung="M/L")
    events = json.loads((tmp_path / "a.json").read_text())["traceEvents"]
    shown = {event["name"]: event["args"] for event in events if event.get("cat") == "nvtx"}
    told = {"source": "record_function"}
    assert shown == {"outer": told, "inner": told}


def test_nothing_stays_patched(torch_nvtx: FakeNvtx) -> None:
    """After a profile the functions of both packages are what they were, also when the target
    raised.
    """

    def patched() -> tuple[Any, ...]:
        return (
            torch_internals.NVTX.value,
            nvtx.push_range,
            nvtx.pop_range,
            nvtx.annotate.__enter__,
            nvtx.annotate.__exit__,
            record_function.__enter__,
            record_function.__exit__,
        )

    before = patched()
    measured(annotated, torch.ones(8))
    assert patched() == before

    def failing(x: torch.Tensor) -> torch.Tensor:
        annotated(x)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        measured(failing, torch.ones(8))
    assert patched() == before


def test_unbalanced_ranges_do_no_harm() -> None:
    """A range that was open before the call, and one that never ends, are left out; the others stay
    right.
    """

    def target(x: torch.Tensor) -> torch.Tensor:
        nvtx.pop_range()
        with nvtx.annotate("whole"):
            x = x + 1
        nvtx.push_range("never ends", domain="other")
        return x

    assert names(measured(target, torch.ones(8))) == ["whole"]


def test_ranges_are_layers_when_asked(tmp_path: Path) -> None:
    """With ranges_as_layers=True code without modules has its ranges as layers, also in a saved
    capture.
    """
    prof = xsp.measure(annotated, torch.ones(8), ranges_as_layers=True, **LAYERS)
    spans = prof.spans
    last = spans[spans["run"] == spans.loc[spans["rung"] == "M/L", "run"].max()]
    assert list(last[last["level"] == "LAYER"].sort_values("start_ns")["name"]) == [
        "mine:outer",
        "inner",
    ]
    inner, outer = (last[last["name"] == name].iloc[0] for name in ("inner", "mine:outer"))
    assert inner["parent_id"] == outer["span_id"]
    layers = prof.table("layers").set_index("name")
    assert layers.loc[["mine:outer", "inner"], "kind"].tolist() == ["range", "range"]
    loaded = xsp.load(prof.save(tmp_path / "a.xsp"))
    assert loaded.ranges.equals(prof.ranges)
    assert prof.runs["unmatched"].sum() == 0


def test_functional_calls_outside_ranges_stay_layers() -> None:
    """With ranges as layers, functional calls outside them are layers too; a range that never ends
    is left out.
    """

    def target(x: torch.Tensor) -> torch.Tensor:
        x = functional.gelu(x)
        x = annotated(x)
        nvtx.push_range("left open")
        return x.exp()

    prof = xsp.measure(target, torch.ones(8), ranges_as_layers=True, **LAYERS)
    spans = prof.spans
    last = spans[
        (spans["run"] == spans.loc[spans["rung"] == "M/L", "run"].max())
        & (spans["level"] == "LAYER")
    ]
    assert list(last.sort_values("start_ns")["name"]) == ["target::gelu", "mine:outer", "inner"]
    assert prof.runs["unmatched"].sum() == 0


def test_profiles_without_ranges_have_none() -> None:
    """prof.ranges is empty, with its columns, where the target has no ranges."""
    ranges = profiled(Net(), torch.randn(2, 4)).ranges
    assert len(ranges) == 0
    assert list(ranges.columns) == [
        "run",
        "rung",
        "name",
        "domain",
        "source",
        "thread",
        "start_ns",
        "end_ns",
        "duration_ns",
    ]
