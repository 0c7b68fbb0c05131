"""Is every kernel counted, and how much of the GPU's time is led to source layers?

    python benchmarks/program_coverage.py [--device cuda] [--only "gpt2*"] [--json F]

Each program is profiled on all levels. The kernels, copies and sets of a run are compared with what
torch.profiler counts in one, and the GPU's time is divided: what is led to a layer of the source,
to something that is named and no layer (`(gradient buckets)`), and to neither. Kernels of compiled
code count as led where `prof.compiled()` leads them. The products and convolutions of each source
layer of compiled code are compared, by their FLOPs, with those of the same program run eagerly.
Results are added to those that F holds; what it has is not run again unless it failed. A program
that takes too long is a row that says so. Without a GPU it says what ran and knows no shares.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from source_flops import compared_flops
from time_limit import limited
from torch import nn
from torch.utils.checkpoint import checkpoint_sequential
from torch_counts import counted_by_torch

import xsp
from xsp.analysis.spans.sequence import activity_sequence
from xsp.machine.environment import environment
from xsp.profiles import Profile
from xsp.types import Tables

Make = Callable[[str], tuple[nn.Module, tuple[torch.Tensor, ...]]]

UNLED = ("(outside layers)", "(not in the structure run)", "(unknown)")
KINDS = ("led", "named", "neither")
WARMUP = 4

PACKAGES = ("torchvision", "transformers", "torch_geometric")


@dataclass
class Program:
    """What is profiled, with the options of `xsp.measure` that it needs; `eager` is the same
    without a compiler, for programs that have one.
    """

    run: Callable[[], Any]
    options: dict[str, Any] = field(default_factory=dict)
    eager: Callable[[], Any] | None = None


def resnet50(device: str) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """Inference of torchvision's ResNet-50; on a CPU of a small network."""
    if device == "cpu":
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()).eval(), (torch.rand(1, 3, 16, 16),)
    from torchvision.models import resnet50

    return resnet50().eval().to(device), (torch.rand(16, 3, 224, 224, device=device),)


def gpt2(device: str) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """Inference of a GPT-2 of transformers with random weights."""
    from transformers import GPT2Config, GPT2LMHeadModel

    layers = 12 if device == "cuda" else 2
    model = GPT2LMHeadModel(GPT2Config(n_layer=layers, use_cache=False)).eval().to(device)
    return model, (torch.randint(0, 50_000, (4, 128 if device == "cuda" else 8), device=device),)


def inference(model: nn.Module, inputs: tuple[torch.Tensor, ...], way: str) -> Program:
    """A forward pass eager, compiled, with reduce-overhead or captured by hand."""
    called: Callable[..., Any] = model
    if way == "compiled":
        called = torch.compile(model)
    elif way == "reduce-overhead":
        called = torch.compile(model, mode="reduce-overhead")

    def forward(what: Callable[..., Any] = called) -> None:
        with torch.no_grad():
            what(*inputs)

    if way == "captured":
        graph = captured(forward)
        return Program(graph.replay, {"captured_from": forward})
    return Program(forward, eager=None if called is model else partial(forward, model))


def captured(function: Callable[[], None]) -> torch.cuda.CUDAGraph:
    """A graph of the function, captured as torch's documentation does it."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            function()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    return graph


def training(device: str, way: str) -> Program:
    """A step with automatic mixed precision, checkpoints and a fused optimizer, or compiled."""
    width, blocks = (1_024, 6) if device == "cuda" else (32, 2)
    parts = [(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU()) for _ in range(blocks)]
    net = nn.Sequential(*[nn.Sequential(*each) for each in parts]).to(device)
    x = torch.rand(512 if device == "cuda" else 4, width, device=device, requires_grad=True)
    optimizer = torch.optim.AdamW(net.parameters(), fused=device == "cuda")
    scaler = torch.amp.GradScaler(device, enabled=device == "cuda")
    called = torch.compile(net) if way == "compiled" else net

    def step(what: Callable[..., Any] = called) -> None:
        optimizer.zero_grad()
        with torch.autocast(device, dtype=torch.float16 if device == "cuda" else torch.bfloat16):
            if way == "checkpoints":
                output = checkpoint_sequential(what, 2, x, use_reentrant=False)
            else:
                output = what(x)
            loss = output.square().mean()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    eager = partial(step, net) if way == "compiled" else None
    return Program(step, {"restore": (net, optimizer)}, eager)


def two_streams(device: str) -> Program:
    """Two halves of a network, each on a stream of its own, and what joins them."""
    width = 1_024 if device == "cuda" else 32
    first, second, last = (nn.Linear(width, width).to(device).eval() for _ in range(3))
    x = torch.rand(512 if device == "cuda" else 4, width, device=device)
    side = torch.cuda.Stream() if device == "cuda" else None

    def forward() -> None:
        with torch.no_grad():
            if side is None:
                last(first(x) + second(x))
                return
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                right = second(x)
            left = first(x)
            torch.cuda.current_stream().wait_stream(side)
            last(left + right)

    return Program(forward)


def lstm(device: str) -> Program:
    """A recurrent network of two layers."""
    net, x = nn.LSTM(128, 256, 2).to(device).eval(), torch.rand(32, 8, 128, device=device)

    def forward() -> None:
        with torch.no_grad():
            net(x)

    return Program(forward)


def generation(device: str) -> Program:
    """Eight tokens with a static cache."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        vocab_size=1_000,
    )
    model = LlamaForCausalLM(config).to(device).eval()
    tokens = torch.randint(3, 1_000, (1, 16), device=device)
    how = {"max_new_tokens": 8, "do_sample": False, "cache_implementation": "static"}
    return Program(lambda: model.generate(tokens, pad_token_id=0, disable_compile=True, **how))


def graph_network(device: str) -> Program:
    """Two graph convolutions of torch-geometric."""
    from torch_geometric.nn import GCNConv  # type: ignore[import-not-found] # on GPU hosts only

    first, second = (GCNConv(64, 64).to(device).eval() for _ in range(2))
    x = torch.rand(1_000, 64, device=device)
    edges = torch.randint(0, 1_000, (2, 8_000), device=device)

    def forward() -> None:
        with torch.no_grad():
            second(first(x, edges).relu(), edges)

    return Program(forward)


def mask_rcnn(device: str) -> Program:
    """Mask R-CNN of torchvision with random weights."""
    from torchvision.models.detection import maskrcnn_resnet50_fpn

    model = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None).to(device).eval()
    images = [torch.rand(3, 320, 320, device=device)]

    def forward() -> None:
        with torch.no_grad():
            model(images)

    return Program(forward)


def programs(device: str) -> dict[str, Callable[[], Program]]:
    """By name what makes a program."""
    found: dict[str, Callable[[], Program]] = {}
    ways = ("eager", "compiled", "reduce-overhead", "captured") if device == "cuda" else ("eager",)
    for name, make in (("resnet50", resnet50), ("gpt2", gpt2)):
        for way in ways:
            found[f"{name}, {way}"] = partial(_inference_of, make, device, way)
    for way in ("checkpoints", "compiled"):
        found[f"training, {way}"] = partial(training, device, way)
    others = {
        "two streams": two_streams,
        "lstm": lstm,
        "generate, static cache": generation,
        "graph network": graph_network,
        "mask r-cnn": mask_rcnn,
    }
    return found | {name: partial(made, device) for name, made in others.items()}


def _inference_of(make: Make, device: str, way: str) -> Program:
    return inference(*make(device), way)


def divided(prof: Profile) -> dict[str, Any]:
    """Kernels, copies and sets of one run, their milliseconds, and the shares of these that are led
    to source layers, to what is named and no layer, and to neither; of compiled code alone too.
    """
    tables = prof._capture.tables
    every = activity_sequence(tables)
    if not len(every):
        return {"activities": 0}
    compiled = prof.compiled_layers()
    is_compiled = by_graphs(every, tables)
    rest = every[~is_compiled]
    names = tables["layers"]["name"].astype(str).to_numpy()[rest["layer"]]
    # What a compiled layer runs besides its graphs has that one layer, which is none of the source.
    is_beside = rest["layer"].isin(every.loc[is_compiled, "layer"]).to_numpy()
    taken_ns = rest["duration_ns"].to_numpy()
    kinds = np.where(is_beside, "neither", [kind_of(name) for name in names])
    of_rest = pd.Series(taken_ns / 1e6).groupby(kinds).sum()
    of_compiled = compiled["device_ms"].groupby(compiled["layer"].map(kind_of)).sum()
    both = of_rest.add(of_compiled, fill_value=0.0).reindex(KINDS, fill_value=0.0)
    row = {"activities": len(every), "device_ms": float(both.sum())}
    row |= {kind: float(both[kind] / both.sum()) for kind in KINDS}
    if len(compiled):
        beside_ms = taken_ns[is_beside].sum() / 1e6
        whole_ms = of_compiled.sum() + beside_ms
        row["compiled_ms"] = float(whole_ms)
        row["led_of_compiled"] = float(of_compiled.get("led", 0.0) / whole_ms)
    return row


def by_graphs(every: pd.DataFrame, tables: Tables) -> npt.NDArray[np.bool_]:
    """Which of an `activity_sequence` compiled graphs launched."""
    if "compiled_kernels" not in tables:
        return np.zeros(len(every), dtype=bool)
    is_kernel = (every["kind"] == "kernel").to_numpy()
    kernels, copies = (
        every["position"].isin(tables[name]["position"]).to_numpy()
        for name in ("compiled_kernels", "compiled_copies")
    )
    return np.where(is_kernel, kernels, copies)


def kind_of(layer: str) -> str:
    """One of KINDS, by the name of a layer; `blocks::(gradient accumulation)` is none."""
    if layer in UNLED:
        return "neither"
    return "named" if layer.rpartition("::")[2].startswith("(") else "led"


def row_of(made: Program, device: str) -> dict[str, Any]:
    """The figures of one program."""
    quick: dict[str, Any] = {"iterations": 3, "warmup": 2, "progress": False}
    eager = xsp.measure(made.eager, **quick, **made.options) if made.eager else None
    for _ in range(WARMUP):
        made.run()
    row: dict[str, Any] = {}
    if device == "cuda":
        row["counted_by_torch"] = counted_by_torch(made.run)
    prof = xsp.measure(made.run, **quick, **made.options)
    row |= divided(prof)
    if eager is not None and device == "cuda":
        row["flops"] = compared_flops(prof, eager)
    row["latency_ms"], row["lost"] = prof.latency_ms, prof.lost
    row["warnings"] = [warning[:240] for warning in prof.warnings]
    return row


def result_of(make: Callable[[], Program], options: argparse.Namespace) -> dict[str, Any]:
    """The figures of one program, or the error that it ended with, and the seconds it took."""
    torch.manual_seed(0)
    torch._dynamo.reset()
    started = time.monotonic()
    try:
        with limited(options.limit_s):
            row = row_of(make(), options.device)
    except Exception as error:  # one program must not take the others with it
        traceback.print_exc()
        row = {"error": f"{type(error).__name__}: {str(error)[:300]}"}
    row["seconds"] = round(time.monotonic() - started, 1)
    gc.collect()
    return row


def versions() -> dict[str, str]:
    """Of the packages that the programs are made of, those that there are."""
    return {name: version(name) for name in PACKAGES if find_spec(name)}


def main() -> None:
    """Run what has no result yet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--only", nargs="+", default=["*"], help="shell patterns, in this order")
    parser.add_argument("--budget-s", type=float, default=500.0, help="begin no program after it")
    parser.add_argument("--limit-s", type=float, default=90.0, help="for each program")
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    begin = time.monotonic()
    found: dict[str, Any] = {"environment": environment(), "packages": versions(), "programs": {}}
    if options.json and options.json.exists():
        found = json.loads(options.json.read_text())
    every = programs(options.device)
    asked = [name for each in options.only for name in every if fnmatch(name, each)]
    for name in dict.fromkeys(asked):
        is_done = "error" not in found["programs"].get(name, {"error": ""})
        if is_done or time.monotonic() - begin > options.budget_s:
            continue
        known = found["programs"] | {name: result_of(every[name], options)}
        found["programs"] = {each: known[each] for each in every if each in known}
        print(name, json.dumps(known[name]), flush=True)
        if options.json:
            options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
