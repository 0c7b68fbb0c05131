"""Calls in sequence, a row each; and the names and lines that layers have."""

from __future__ import annotations

import functools
import inspect
import json
import warnings
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from operations import operations_are_kernels
from quick import LAYERS, forward_names, layer_spans, measured
from torch import distributed, nn

import xsp
from xsp.report.text import profile_text


class Step(nn.Module):
    """One step of a decoder: attention over all that was seen so far."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.out = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        attended = F.scaled_dot_product_attention(self.query(x), seen, seen)
        return F.relu(self.out(attended))


class Decoder(nn.Module):
    """A prompt of four tokens, then three one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.step = Step()

    def forward(self, prompt: torch.Tensor) -> torch.Tensor:
        seen, x = prompt, prompt
        for _ in range(4):
            x = self.step(x, seen)[:, -1:]
            seen = torch.cat([seen, x], dim=1)
        return seen


@pytest.fixture(scope="module")
def generating() -> xsp.Profile:
    """A decoder that is called once."""
    torch.manual_seed(0)
    with torch.no_grad():
        return xsp.measure(Decoder(), torch.randn(1, 4, 8), **LAYERS)


def shapes(calls: pd.DataFrame) -> list[Any]:
    return [json.loads(text) for text in calls["input_shapes"]]


def test_every_step_of_a_decoder_has_its_row(generating: xsp.Profile) -> None:
    """Prefill and decoding steps stand in order, each with its shapes, layers and time."""
    calls = generating.calls("step")
    assert shapes(calls) == [[[1, tokens, 8], [1, seen, 8]] for tokens, seen in STEPS]
    assert calls["layers"].tolist() == [4] * 4
    assert (calls["host_ms"] > 0).all()
    assert calls["host_ms"].sum() <= generating.runs["latency_ns"].max() / 1e6
    assert generating.calls("Step").equals(calls.assign(name="Step"))


STEPS = [(4, 4), (1, 5), (1, 6), (1, 7)]


def test_calls_of_a_layer_have_rows(generating: xsp.Profile) -> None:
    """A layer can be asked for as modules can."""
    assert shapes(generating.calls("step.query")) == [[[1, tokens, 8]] for tokens, _ in STEPS]


def test_calls_of_the_target_are_unprofiled() -> None:
    """Each call of a block has its row, and together they are the latency."""
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    with xsp.profile(model, **LAYERS) as prof:
        for batch in (2, 8, 32):
            model(torch.randn(batch, 4))
    calls = prof.calls()
    assert shapes(calls) == [[[batch, 4]] for batch in (2, 8, 32)]
    assert calls["layers"].tolist() == [2] * 3
    assert calls["host_ms"].sum() == pytest.approx(prof.latency_ms)
    assert calls["device_ms"].isna().all()


def test_kernels_count_for_the_call_that_launched_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """GPU-busy times and kernels of all calls make those of the model."""
    operations_are_kernels(monkeypatch)
    model = Decoder()
    with torch.no_grad():
        prof = xsp.measure(model, torch.randn(1, 4, 8), iterations=2, warmup=1, progress=False)
    calls, tree = prof.calls("step"), prof.tree().set_index("path")
    assert (calls["kernels"] > 0).all()
    assert calls["kernels"].sum() == tree.loc["Decoder/step", "kernels"]
    assert calls["device_ms"].sum() == pytest.approx(tree.loc["Decoder/step", "device_ms"])
    assert prof.calls()["kernels"].sum() == prof.kernel_count


class Past:
    """What was seen so far, in an object that each call adds to, as caches of Hugging Face do."""

    def __init__(self) -> None:
        self.keys = torch.zeros(1, 0, 8)

    def add(self, x: torch.Tensor) -> torch.Tensor:
        self.keys = torch.cat([self.keys, x], dim=1)
        return self.keys


class Generator(nn.Module):
    """A model that its `generate` calls for a prompt and then token by token."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.step = nn.Embedding(11, 8), Step()
        self.head = nn.Linear(8, 11)

    def forward(self, tokens: torch.Tensor, past: Past) -> torch.Tensor:
        x = self.embed(tokens)
        logits: torch.Tensor = self.head(self.step(x, past.add(x))[:, -1])
        return logits

    @torch.no_grad()
    def generate(self, tokens: torch.Tensor, new: int) -> torch.Tensor:
        """The prompt with so many new tokens."""
        past = Past()
        given = tokens
        for _ in range(new):
            given = self(given, past).argmax(-1, keepdim=True)
            tokens = torch.cat([tokens, given], dim=1)
        return tokens


DECODED = 64
PROMPT = torch.arange(6).reshape(1, 6)


def assert_each_call_has_a_row(calls: pd.DataFrame) -> None:
    """Prefill and every decode step, in order, with a time."""
    assert calls["call"].tolist() == list(range(1 + DECODED))
    assert [each[0] for each in shapes(calls)] == [[1, 6]] + [[1, 1]] * DECODED
    assert (calls["host_ms"] > 0).all()


def test_generation_in_a_block_has_a_row_for_each_call() -> None:
    """A prefill and 64 decode steps are 65 rows of `prof.calls()`, and the tokens are those without
    xsp.
    """
    torch.manual_seed(3)
    model = Generator().eval()
    expected = model.generate(PROMPT, 1 + DECODED)
    with xsp.profile(model, **LAYERS) as prof:
        found = model.generate(PROMPT, 1 + DECODED)
    assert torch.equal(found, expected)
    assert_each_call_has_a_row(prof.calls())
    assert not [each for each in prof.warnings if "left-out" in each or "changed-call" in each]


def test_generation_measured_as_a_whole_has_a_row_for_each_call_of_a_module() -> None:
    """`xsp.measure(model.generate, ...)` keeps no copies of calls; those of any module are found by
    its name or type.
    """
    torch.manual_seed(3)
    model = Generator().eval()
    expected = model.generate(PROMPT, 1 + DECODED)
    prof = xsp.measure(model.generate, PROMPT, 1 + DECODED, **LAYERS)
    assert_each_call_has_a_row(prof.calls("Generator").reset_index(drop=True))
    assert len(prof.calls("step")) == 1 + DECODED
    assert torch.equal(model.generate(PROMPT, 1 + DECODED), expected)


def test_calls_survive_a_capture(generating: xsp.Profile, tmp_path: Path) -> None:
    """A saved profile knows the calls; one that does not says so."""
    loaded = xsp.load(generating.save(tmp_path / "decoder.xsp"))
    pd.testing.assert_frame_equal(loaded.calls("step"), generating.calls("step"))
    old = xsp.load(Path(__file__).parent.parent / "examples/captures/h100_resnet50.xsp")
    with pytest.raises(xsp.XspError, match="has no calls of modules"):
        old.calls("layer1")
    with pytest.raises(xsp.XspError, match="no module or layer is called 'nothing'"):
        old.calls("nothing")


HEAD = nn.Linear(4, 2)


def test_modules_are_named_by_the_variable_that_holds_them() -> None:
    """In a list of the closure, a global, an argument of a partial and an attribute of the bound
    object: each block has its own row.
    """
    blocks = [nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(2)]

    class Trainer:
        def __init__(self) -> None:
            self.stem = nn.Linear(4, 4)

        def run(self, x: torch.Tensor) -> torch.Tensor:
            output: torch.Tensor = self.stem(x)
            return output

    trainer = Trainer()

    def step(tail: nn.Module, x: torch.Tensor) -> torch.Tensor:
        for block in blocks:
            x = block(x)
        output: torch.Tensor = tail(HEAD(x))
        return output

    parts = {"heads": [nn.Linear(4, 4)]}
    x = torch.randn(2, 4)
    assert forward_names(measured(lambda: parts["heads"][0](x))) == ["parts.heads.0"]
    names = forward_names(measured(functools.partial(step, tail=nn.ReLU()), x=x))
    assert names == ["blocks.0.0", "blocks.0.1", "blocks.1.0", "blocks.1.1", "HEAD", "tail"]
    assert forward_names(measured(trainer.run, x)) == ["stem"]


def _headed(x: torch.Tensor) -> torch.Tensor:
    output: torch.Tensor = HEAD(x)
    return output


def test_modules_of_functions_that_the_callable_uses_have_their_names() -> None:
    """Of a helper, of a function that is defined inside, and of an object that is called: a module
    that these hold in a variable is not called after its class.
    """

    class Predictor:
        def __call__(self, x: torch.Tensor) -> torch.Tensor:
            return _headed(x)

    def inside(x: torch.Tensor) -> torch.Tensor:
        def head() -> torch.Tensor:
            output: torch.Tensor = HEAD(x)
            return output

        return head()

    x = torch.randn(2, 4)
    assert forward_names(measured(lambda: _headed(x))) == ["HEAD"]
    assert forward_names(measured(Predictor(), x)) == ["HEAD"]
    assert forward_names(measured(inside, x)) == ["HEAD"]


def test_looking_for_names_warns_of_nothing_of_torchs() -> None:
    """A program that names torch.distributed, which has deprecated variables, is told of none."""

    def step(x: torch.Tensor) -> torch.Tensor:
        return x * (2 if distributed.is_initialized() else 3)

    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        measured(step, torch.randn(2))


def test_a_profile_has_the_name_of_what_was_measured() -> None:
    """A local function's own name without the function around it, a partial's is that of what it
    calls, a method's has its class.
    """

    def step(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    x = torch.randn(2)
    assert measured(step, x).name == "step"
    assert measured(functools.partial(step, x)).name == "step"
    assert measured(torch.nn.ReLU().forward, x).name == "ReLU.forward"


def test_layers_know_their_line(tmp_path: Path) -> None:
    """A functional layer and a module have the file and line of their call, in the table, the text
    and traces too; xsp's and torch's own frames are passed over.
    """
    model = Decoder()
    with torch.no_grad():
        prof = xsp.measure(model, torch.randn(1, 4, 8), **LAYERS)
    lines, first = inspect.getsourcelines(Decoder.forward)
    concatenation = first + next(at for at, line in enumerate(lines) if "torch.cat" in line)
    attention = inspect.getsourcelines(Step.forward)[1] + 1
    source = layer_spans(prof).set_index("name")["source"]
    assert source["::cat"] == f"{__file__}:{concatenation}"
    assert set(source["step.query"]) == {f"{__file__}:{attention}"}
    tree = prof.tree().set_index("name")
    assert set(tree.loc[["step.query"], "source"]) == {f"{__file__}:{attention}"}
    prof.to_chrome(tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    traced = {event["args"].get("source") for event in events if event["name"] == "step.query"}
    assert f"{__file__}:{attention}" in traced
    assert f"test_calls.py:{attention}" in profile_text(prof, width=200)


def test_calls_of_different_shapes_are_rows_apart(generating: xsp.Profile) -> None:
    """Prefill and decoding steps of a layer have rows of their own; pooled, they are one."""
    tree = generating.tree()
    rows = tree[tree["name"] == "step.query"]
    assert rows["calls"].tolist() == [1, 3]
    assert shapes(rows) == [[[1, 4, 8]], [[1, 1, 8]]]
    assert tree["path"].is_unique
    pooled = generating.tree(pooled=True)
    assert pooled[pooled["name"] == "step.query"]["calls"].tolist() == [4]


def test_equal_operations_are_one_row() -> None:
    """A loop of functional calls is one row that says how many they were; the analysis of layers
    keeps each, with the same time in all.
    """

    def loop(x: torch.Tensor) -> torch.Tensor:
        for _ in range(50):
            x = x * 2
        return torch.cat([x, x])

    prof = measured(loop, torch.randn(4))
    tree = prof.tree()
    layers = tree[tree["level"] == "LAYER"]
    assert list(zip(layers["name"], layers["calls"], strict=True)) == [
        ("loop::mul", 50),
        ("loop::cat", 1),
    ]
    each = xsp.analysis.layer_information(prof)
    products = each[each["name"].str.startswith("loop::mul")]
    assert len(products) == 50
    assert products["host_ms"].notna().all()
    pooled = prof.tree(pooled=True)
    kept = pooled[pooled["name"].str.startswith("loop::mul")]["host_ms"]
    assert products["host_ms"].sum() == pytest.approx(kept.sum())
