"""Compiled code along the user's own loop is led to source layers, and nothing is run again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from inductor_without_compiler import inductor_without_compiler
from quick import measured
from torch import nn
from torch._dynamo.utils import counters

import xsp
from xsp.machine import compiler_internals
from xsp.measuring.along import compiled_steps

OPTIONS: dict[str, Any] = {"levels": "M/L", "iterations": 2, "warmup": 0, "progress": False}

NAMED = ["phase", "kernel", "layer", "operators", "source", "share", "confidence", "flops"]


@pytest.fixture(autouse=True)
def _no_compiler(tmp_path: Path) -> Iterator[None]:
    with inductor_without_compiler(tmp_path):
        yield


class Block(nn.Module):
    """A norm, two products, and functions between them that no module stands for."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(8), nn.Linear(8, 32), nn.Linear(32, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner: torch.Tensor = self.down(torch.sigmoid(self.up(self.norm(x))))
        return x + inner


class Net(nn.Module):
    """Two blocks that are alike, and a layer after them."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks, self.head = nn.ModuleList([Block(), Block()]), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        output: torch.Tensor = self.head(x)
        return output


def whole(net: Net) -> nn.Module:
    """The model compiled in place."""
    net.compile()
    return net


def wrapped(net: Net) -> nn.Module:
    """The model as torch.compile gives it."""
    model: Any = torch.compile(net)
    assert isinstance(model, nn.Module)
    return model


def in_pieces(net: Net) -> nn.Module:
    """Each block compiled by itself."""
    for block in net.blocks:
        block.compile()
    return net


def training(model: nn.Module) -> tuple[torch.optim.Optimizer, Callable[[], None]]:
    """An optimizer, and a step with it."""
    optimizer, x = torch.optim.SGD(model.parameters(), lr=0.1), torch.randn(16, 8)

    def step() -> None:
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()

    return optimizer, step


def led(prof: xsp.Profile) -> pd.DataFrame:
    """Launch by launch, without what a run has of its own."""
    return prof.compiled()[NAMED].sort_values(NAMED, ignore_index=True)


def said(prof: xsp.Profile, *slugs: str) -> list[str]:
    """The warnings with these slugs."""
    return [each for each in prof.warnings if any(f"[{slug}]" in each for slug in slugs)]


@pytest.mark.parametrize("compiled", [whole, wrapped, in_pieces])
def test_a_loop_leads_compiled_code_as_measuring_its_step_does(
    compiled: Callable[[Net], nn.Module],
) -> None:
    """Forward and backward, to the same layers, lines, shares and FLOPs; nothing is compiled for
    it.
    """
    model = compiled(Net())
    optimizer, step = training(model)
    step()
    before = counters["frames"].copy()
    with xsp.profile(model, optimizer=optimizer, **OPTIONS) as prof:
        for _ in range(29):
            step()
            prof.step()
    assert counters["frames"] == before
    assert not said(prof, "recompiled", "compiled-not-led")
    assert len(prof.compilations) > 0
    found = led(prof)
    assert set(found["phase"]) == {"forward", "backward"}
    owners = {"blocks.0.up", "blocks.0.norm", "blocks.1.down", "blocks.1::sigmoid"}
    assert owners <= set(found["layer"])
    pd.testing.assert_frame_equal(found, led(measured(step)))
    assert (prof.compiled_graphs()["running_ns"] > 0).all()


def test_what_is_compiled_while_the_loop_is_followed_is_exact() -> None:
    """Each call of the model is a step, and the first one compiles."""
    model, x = in_pieces(Net()), torch.randn(16, 8)
    with torch.no_grad(), xsp.profile(model, along=True, **OPTIONS) as prof:
        for _ in range(30):
            model(x)
    assert set(prof.compiled()["confidence"]) == {"exact"}


def test_a_loop_that_ends_before_it_is_watched_says_so() -> None:
    """Its rounds count, and a warning gives the reason."""
    model = in_pieces(Net())
    optimizer, step = training(model)
    step()
    with xsp.profile(model, optimizer=optimizer, **OPTIONS | {"iterations": 1}) as prof:
        for _ in range(8):
            step()
            prof.step()
    (sentence,) = said(prof, "compiled-not-led")
    assert "the loop ended" in sentence
    assert not len(prof.compiled())
    assert prof.latency_ms > 0


def test_replays_of_the_compilers_graphs_are_said_to_be_told_by_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Along a loop nothing is run without these graphs; what else is known of launches is there."""
    monkeypatch.setattr(compiled_steps, "has_graph_trees", lambda: True)
    monkeypatch.setattr(compiled_steps, "replayed_in", lambda _tables: [0])
    model = in_pieces(Net())
    optimizer, step = training(model)
    step()
    with xsp.profile(model, optimizer=optimizer, **OPTIONS) as prof:
        for _ in range(29):
            step()
            prof.step()
    (sentence,) = said(prof, "compiled-not-led")
    assert "told by the names of their kernels alone" in sentence
    assert set(prof.compiled()["phase"]) == {"forward", "backward"}


def test_a_loop_without_compiled_code_says_nothing_of_it() -> None:
    """Neither tables nor warnings, though the process has compiled something else."""
    torch.compile(Block())(torch.randn(2, 8))
    model = Net()
    optimizer, step = training(model)
    with xsp.profile(model, optimizer=optimizer, **OPTIONS) as prof:
        for _ in range(12):
            step()
            prof.step()
    assert not said(prof, "compiled-not-led")
    assert not len(prof.compiled())


def test_compiled_code_within_an_optimizers_step_stays_compiled() -> None:
    """Where a closure computes, as Lightning has it, the program runs the code that it had compiled
    before, and its kernels are led.
    """
    model = whole(Net())
    optimizer, x = torch.optim.SGD(model.parameters(), lr=0.1), torch.randn(16, 8)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss: torch.Tensor = model(x).square().mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    before = counters["frames"].copy()
    with xsp.profile(model, optimizer=optimizer, **OPTIONS) as prof:
        for _ in range(29):
            optimizer.step(closure)
            prof.step()
    assert counters["frames"] == before
    assert not said(prof, "recompiled", "compiled-not-led")
    assert set(prof.compiled()["phase"]) == {"forward", "backward"}


def test_modules_that_share_compiled_code_have_each_their_layers() -> None:
    """Without gradients the second block runs what was compiled for the first: its products count
    for its own layers.
    """
    model, x = in_pieces(Net()), torch.randn(16, 8)
    with torch.no_grad():
        prof = measured(model, x)
    assert prof.compiled_graphs()["calls"].tolist() == [1, 1]
    table = prof.compiled_layers().set_index("layer")
    for block in ("blocks.0", "blocks.1"):
        assert table.loc[f"{block}.up", "flops"] == 2 * 16 * 8 * 32
        assert table.loc[f"{block}::sigmoid", "confidence"] == "exact"


def test_code_of_a_cache_is_led_whatever_its_variables_were_called() -> None:
    """A program that was edited where that changes no graph runs what it had compiled before."""

    def one(x: torch.Tensor) -> torch.Tensor:
        first = x.sin() + 1
        return first @ first

    def other(x: torch.Tensor) -> torch.Tensor:
        last = x.sin() + 1
        return last @ last

    x = torch.randn(8, 8)
    with torch.no_grad():
        torch.compile(one)(x)
        torch._dynamo.reset()
        hits = counters["inductor"]["fxgraph_cache_hit"]
        compiled = torch.compile(other)
        prof = measured(lambda: compiled(x))
    assert counters["inductor"]["fxgraph_cache_hit"] == hits + 1
    assert not said(prof, "compiled-not-led")
    assert set(prof.compiled()["confidence"]) == {"verified"}
    lines = prof.compiled()["source"].str.rpartition(":")[2].astype(int)
    assert set(lines) == {other.__code__.co_firstlineno + 1, other.__code__.co_firstlineno + 2}


def test_another_thread_compiles_while_code_is_generated_again() -> None:
    """What a program compiles meanwhile is compiled: it gets no graph of a text alone."""
    x = torch.randn(4)
    made: list[tuple[bool, str]] = []
    with torch.no_grad():
        torch.compile(lambda x: x.sin() + 1)(x)
        (traced,) = (each.module for each in compiler_internals.dynamo_graphs())
        init = compiler_internals.graph_made()

    def compiling() -> None:
        with torch.no_grad():
            torch.compile(lambda x: x.cos() * 2)(x)

    def generated(_graph: Any, _text: str) -> None:
        thread = threading.Thread(target=compiling)
        thread.start()
        thread.join(60)

    def noted(owner: Any, *arguments: Any, **keywords: Any) -> None:
        whole_init(owner, *arguments, **keywords)
        in_main = threading.current_thread() is threading.main_thread()
        made.append((in_main, compiler_internals.live_graph(owner).text))

    whole_init = init.value
    undo = init.replace(noted)
    try:
        with torch.no_grad():
            compiler_internals.code_of(traced, {}, generated)
    finally:
        undo()
    texts = [text for in_main, text in made if not in_main]
    assert len(texts) == 1
    assert "cpp_fused" in texts[0]


def test_a_module_that_is_called_through_torch_compile_is_left_alone() -> None:
    """Dynamo looks into the hooks of such a module: the program goes on as without a profile, whose
    error names what is to be given.
    """
    net, x = Net(), torch.randn(16, 8)
    compiled = torch.compile(net, backend="eager")
    with torch.no_grad():
        expected = net(x)
        with (
            pytest.raises(xsp.NothingRecordedError, match=r"what torch\.compile made of it"),
            xsp.profile(net, **OPTIONS),
        ):
            result = compiled(x)
    assert torch.equal(result, expected)
