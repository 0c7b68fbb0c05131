"""Whether programs are left as they would be without xsp: each runs unprofiled and, from the same
seed, profiled; outputs, parameters, buffers, gradients, random state, Python state and caches must
be equal bit for bit.

    python benchmarks/left_as_found.py --json benchmarks/results/left_as_found.json
    python benchmarks/left_as_found.py --device cuda --json left_as_found.json

Models have random weights and are small. Those whose package is not installed are told as absent.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import importlib.util
import json
import random
import sys
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.utils.checkpoint
from torch import nn

import xsp
from xsp.machine.environment import environment
from xsp.measuring.copies import same
from xsp.measuring.python_state import attributes

QUICK: dict[str, Any] = {"levels": "M/L", "iterations": 2, "warmup": 1, "progress": False}


class Profiled:
    """xsp as a program uses it: in a block around calls of a model, along a loop, or for a step."""

    def __init__(self) -> None:
        self.profiles: list[xsp.Profile] = []

    @contextmanager
    def __call__(self, model: nn.Module, **how: Any) -> Iterator[Any]:
        """A block; what it binds has `step`."""
        with xsp.profile(model, **QUICK, **how) as prof:
            yield prof
        self.profiles.append(prof)

    def measure(self, step: Callable[[], Any], restore: tuple[Any, ...]) -> None:
        """Measure a step, and put back what it changes."""
        self.profiles.append(xsp.measure(step, restore=restore, **QUICK))


class Unprofiled(Profiled):
    """The same without xsp."""

    @contextmanager
    def __call__(self, model: nn.Module, **how: Any) -> Iterator[Any]:  # noqa: ARG002 - as it is called with xsp
        """Nothing, `step` too."""
        yield self

    def step(self) -> None:
        """Nothing."""

    def measure(self, step: Callable[[], Any], restore: tuple[Any, ...]) -> None:
        """Nothing."""


@dataclass
class Program:
    """A model and what is done with it; `run` returns what the program gets to see."""

    model: nn.Module
    run: Callable[[Profiled], Any]
    others: list[Any] = field(default_factory=list)
    """Caches, optimizers and the like, compared as Python state."""


Make = Callable[[str], Program]
CASES: dict[str, tuple[str, Make]] = {}


def case(name: str, package: str = "torch") -> Callable[[Make], Make]:
    """Register a program that needs a package."""

    def register(make: Make) -> Make:
        CASES[name] = package, make
        return make

    return register


def once(model: nn.Module, *args: Any, **kwargs: Any) -> Program:
    """One call without gradients."""

    def run(profiled: Profiled) -> Any:
        with torch.no_grad(), profiled(model):
            return model(*args, **kwargs)

    return Program(model, run)


def trained(model: nn.Module, *args: Any, loss: Callable[[Any], torch.Tensor]) -> Program:
    """Two steps of training, with the forward pass of the first profiled."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)

    def run(profiled: Profiled) -> Any:
        losses = []
        for step in range(2):
            optimizer.zero_grad()
            with profiled(model) if step == 0 else nullcontext():
                output = model(*args)
            value = loss(output)
            value.backward()
            optimizer.step()
            scheduler.step()
            losses.append(value.detach())
        return losses

    return Program(model, run, [optimizer.state_dict, scheduler.state_dict])


def first(output: Any) -> torch.Tensor:
    """The first tensor of an output, as a loss."""
    value = output[0] if isinstance(output, tuple | list) else output
    mean: torch.Tensor = value.square().mean()
    return mean


# Plain PyTorch


@case("MLP, training")
def _(device: str) -> Program:
    model = nn.Sequential(nn.Linear(8, 16), nn.Dropout(), nn.BatchNorm1d(16), nn.Linear(16, 4))
    return trained(model.to(device), torch.randn(8, 8, device=device), loss=first)


@case("CNN, training")
def _(device: str) -> Program:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1)
    )
    return trained(model.to(device), torch.randn(4, 3, 16, 16, device=device), loss=first)


@case("LSTM, training")
def _(device: str) -> Program:
    model = nn.LSTM(8, 16, 2, dropout=0.2).to(device)
    return trained(model, torch.randn(5, 2, 8, device=device), loss=first)


@case("TransformerEncoder, inference")
def _(device: str) -> Program:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    model = nn.TransformerEncoder(layer, 2).eval().to(device)
    return once(model, torch.randn(2, 6, 16, device=device))


@case("TransformerEncoder, training")
def _(device: str) -> Program:
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32), 2).to(device)
    return trained(model, torch.randn(6, 2, 16, device=device), loss=first)


@case("MultiheadAttention")
def _(device: str) -> Program:
    x = torch.randn(2, 6, 16, device=device)
    return once(nn.MultiheadAttention(16, 4, batch_first=True).to(device), x, x, x)


@case("GRU cell with a state that it is given")
def _(device: str) -> Program:
    return once(
        nn.GRUCell(8, 8).to(device), torch.randn(2, 8).to(device), torch.zeros(2, 8).to(device)
    )


class Counting(nn.Module):
    """Keeps a position, a list and a plain tensor in Python."""

    average: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.position, self.seen = nn.Linear(4, 4), 0, list[int]()
        self.register_buffer("average", torch.zeros(4))
        self.table: Any = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.table is None:
            self.table = torch.arange(8.0, device=x.device)
        self.position += 1
        self.seen.append(self.position)
        y: torch.Tensor = self.layer(x) + self.table[self.position]
        self.average.lerp_(y.mean(0).detach(), 0.1)
        return y


@case("module that counts in Python")
def _(device: str) -> Program:
    return once(Counting().to(device), torch.randn(2, 4, device=device))


class Reading(nn.Module):
    """Takes its batch from an iterator."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, stream: Iterator[torch.Tensor]) -> torch.Tensor:
        output: torch.Tensor = self.layer(next(stream))
        return output


def reading(device: str, stream_of: Callable[[list[torch.Tensor]], Iterator[Any]]) -> Program:
    """Calls inside and behind the block that take from one stream, and what is left of it."""
    model = Reading().to(device)
    stream = stream_of([torch.randn(2, 4, device=device) for _ in range(4)])

    def run(profiled: Profiled) -> Any:
        with torch.no_grad():
            with profiled(model):
                outputs = [model(stream)]
            return [*outputs, model(stream), len(list(stream))]

    return Program(model, run)


@case("model that reads from an iterator")
def _(device: str) -> Program:
    return reading(device, iter)


class Noisy(nn.Module):
    """Draws from every random generator, and from one that it is given."""

    def forward(self, x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        noise = torch.rand(x.shape, generator=generator).to(x.device)
        return x * noise + torch.rand_like(x) + random.random() + float(np.random.rand())


@case("draws from every random generator")
def _(device: str) -> Program:
    generator = torch.Generator().manual_seed(5)
    program = once(Noisy(), torch.ones(3, device=device), generator)
    program.others.append(generator.get_state)
    return program


# Loops


def stepped(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    losses: Callable[[], Iterator[torch.Tensor]],
    scheduler: Any = None,
    **how: Any,
) -> Program:
    """A loop over losses, each with a backward pass and the optimizer's step, profiled along."""

    def run(profiled: Profiled) -> Any:
        found = []
        with profiled(model, optimizer=optimizer, **how) as prof:
            for loss in losses():
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                if scheduler is not None:
                    scheduler.step()
                optimizer.zero_grad()
                found.append(loss.detach())
                prof.step()
        return found

    others = [optimizer.state_dict] + ([scheduler.state_dict] if scheduler is not None else [])
    return Program(model, run, others)


@case("MLP, along a loop over a loader")
def _(device: str) -> Program:
    model = nn.Sequential(nn.Linear(8, 16), nn.Dropout(), nn.BatchNorm1d(16), nn.Linear(16, 4))
    model.to(device)
    groups = [{"params": list(each.parameters()), "lr": 0.01} for each in (model[0], model[3])]
    optimizer = torch.optim.AdamW(groups)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=64)
    data = torch.utils.data.TensorDataset(torch.randn(123, 8))
    loader = torch.utils.data.DataLoader(data, batch_size=4, shuffle=True)
    return stepped(
        model,
        optimizer,
        lambda: (first(model(batch.to(device))) for (batch,) in loader),
        scheduler,
    )


@case("one layer, along a loop")
def _(device: str) -> Program:
    model, x = nn.Linear(8, 4).to(device), torch.randn(4, 8, device=device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return stepped(model, optimizer, lambda: (first(model(x)) for _ in range(24)))


@case("recomputed in the backward pass, along a loop")
def _(device: str) -> Program:
    model = nn.Sequential(nn.Linear(8, 8), nn.Dropout(), nn.Linear(8, 8)).to(device)
    x = torch.randn(4, 8, device=device)
    optimizer = torch.optim.Adam(model.parameters())

    def losses() -> Iterator[torch.Tensor]:
        for _ in range(24):
            yield first(torch.utils.checkpoint.checkpoint(model, x, use_reentrant=False))

    return stepped(model, optimizer, losses)


@case("LBFGS, along a loop")
def _(device: str) -> Program:
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1)).to(device)
    x = torch.randn(64, 8, device=device)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=2, line_search_fn=None)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = first(model(x) - x.sin().sum(1, keepdim=True))
        loss.backward()
        return loss

    def run(profiled: Profiled) -> Any:
        losses = []
        with profiled(model, optimizer=optimizer) as prof:
            for _ in range(60):
                losses.append(optimizer.step(closure))
                prof.step()
        return losses

    return Program(model, run)


@case("two networks and two optimizers, along a loop")
def _(device: str) -> Program:
    made, judge = nn.Linear(8, 8).to(device), nn.Linear(8, 1).to(device)
    both = torch.optim.Adam(made.parameters()), torch.optim.SGD(judge.parameters(), lr=0.1)

    def run(profiled: Profiled) -> Any:
        scores = []
        with profiled(made, optimizer=list(both)) as prof:
            for _ in range(24):
                noise = torch.randn(4, 8, device=device)
                for sign, optimizer in ((1, both[1]), (-1, both[0])):
                    score = sign * judge(made(noise)).mean()
                    score.backward()
                    optimizer.step()
                    optimizer.zero_grad()
                    scores.append(score.detach())
                prof.step()
        return scores

    return Program(nn.ModuleList([made, judge]), run, [each.state_dict for each in both])


@case("serving, each call a step")
def _(device: str) -> Program:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)).eval().to(device)

    def run(profiled: Profiled) -> Any:
        with torch.no_grad(), profiled(model, along=True):
            return [model(torch.randn(1 + n % 3, 8, device=device)) for n in range(60)]

    return Program(model, run)


@case("a step that is measured and put back")
def _(device: str) -> Program:
    model = nn.Sequential(nn.Linear(8, 8), nn.Dropout(), nn.BatchNorm1d(8)).to(device)
    optimizer = torch.optim.RAdam(model.parameters())
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    mean = torch.optim.swa_utils.AveragedModel(model)
    x = torch.randn(4, 8, device=device)

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        loss = first(model(x))
        loss.backward()
        optimizer.step()
        scheduler.step()
        mean.update_parameters(model)
        return loss.detach()

    def run(profiled: Profiled) -> Any:
        losses = [step()]
        profiled.measure(step, restore=(model, optimizer, scheduler, mean))
        return [*losses, step(), step()]

    return Program(model, run, [optimizer.state_dict, scheduler.state_dict, mean.state_dict])


# Programs around a model


@case("hooks that collect features")
def _(device: str) -> Program:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)).to(device)
    features: dict[str, list[torch.Tensor]] = {}
    for name, module in model.named_children():
        module.register_forward_hook(
            lambda _module, _args, output, name=name: features.setdefault(name, []).append(output)
        )
    program = once(model, torch.randn(4, 8, device=device))
    program.others.append(lambda: features)
    return program


@case("calls of several threads")
def _(device: str) -> Program:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU()).eval().to(device)
    batches = [torch.randn(4, 8, device=device) for _ in range(8)]

    def run(profiled: Profiled) -> Any:
        with profiled(model), ThreadPoolExecutor(4) as pool:
            return [each.detach() for each in pool.map(model, batches)]

    return Program(model, run)


@case("calls of coroutines")
def _(device: str) -> Program:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU()).eval().to(device)

    async def answer(number: int) -> torch.Tensor:
        await asyncio.sleep(0.001 * (number % 3))
        output: torch.Tensor = model(torch.full((1, 8), float(number), device=device))
        return output.detach()

    async def answers() -> list[torch.Tensor]:
        return await asyncio.gather(*map(answer, range(6)))

    def run(profiled: Profiled) -> Any:
        with profiled(model):
            return asyncio.run(answers())

    return Program(model, run)


class BuildsAtFirst(nn.Module):
    """Makes a layer in its first call."""

    last: Any

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 8), None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.last is None:
            self.last = nn.Linear(8, 8).to(x.device)
        output: torch.Tensor = self.last(nn.ReLU()(self.first(x)))
        return output


@case("model that makes a layer in its first call, training")
def _(device: str) -> Program:
    model, x = BuildsAtFirst().to(device), torch.randn(4, 8, device=device)
    program = trained(model, x, loss=first)

    def run(profiled: Profiled) -> Any:
        with profiled(model):
            output = model(x)
        made = model.last
        return [output.detach(), program.run(Unprofiled()), model.last is made]

    return Program(model, run)


@case("model that reads from batches that are zipped")
def _(device: str) -> Program:
    return reading(device, lambda batches: map(itemgetter(0), zip(batches, range(4), strict=True)))


# transformers


def _causal(kind: str, device: str, **more: Any) -> Any:
    module = importlib.import_module("transformers")
    sizes = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = getattr(module, f"{kind}Config")(**sizes, **more)
    return getattr(module, f"{kind}ForCausalLM")(config).eval().to(device)


def _tokens(device: str) -> torch.Tensor:
    return torch.randint(1, 60, (1, 8), device=device)


def _decoding(kind: str, cache: str, **more: Any) -> Make:
    def make(device: str) -> Program:
        module = importlib.import_module("transformers")
        model, tokens = _causal(kind, device, **more), _tokens(device)
        sized = {"max_cache_len": 32} if cache == "StaticCache" else {}
        kept = getattr(module, cache)(config=model.config, **sized)

        def run(profiled: Profiled) -> Any:
            found = []
            with torch.no_grad():
                with profiled(model):
                    output = model(tokens, past_key_values=kept, use_cache=True)
                for _ in range(5):
                    token = output.logits[:, -1:].argmax(-1)
                    found.append(token)
                    output = model(token, past_key_values=kept, use_cache=True)
            return found, output.logits, int(kept.get_seq_length())

        return Program(model, run)

    return make


def _generating(model: Any, device: str, **how: Any) -> Program:
    tokens = _tokens(device)

    def run(profiled: Profiled) -> Any:
        with torch.no_grad(), profiled(model):
            return model.generate(tokens, max_new_tokens=5, pad_token_id=0, **how)

    return Program(model, run)


LLAMA = {"intermediate_size": 64, "num_key_value_heads": 1, "max_position_embeddings": 64}
for _kind in ("Llama", "Qwen2", "Mistral"):
    for _cache in ("DynamicCache", "StaticCache"):
        CASES[f"{_kind}, {_cache}"] = "transformers", _decoding(_kind, _cache, **LLAMA)
CASES["GPTNeoX, DynamicCache"] = (
    "transformers",
    _decoding("GPTNeoX", "DynamicCache", intermediate_size=64),
)


CASES["Phi, DynamicCache"] = "transformers", _decoding("Phi", "DynamicCache", intermediate_size=64)
CASES["Mixtral, DynamicCache"] = (
    "transformers",
    _decoding("Mixtral", "DynamicCache", num_local_experts=2, **LLAMA),
)


@case("BART, generate with sampling", "transformers")
def _(device: str) -> Program:
    from transformers import BartConfig, BartForConditionalGeneration

    config = BartConfig(
        vocab_size=64,
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        forced_eos_token_id=None,
    )
    model = BartForConditionalGeneration(config).eval().to(device)
    return _generating(model, device, do_sample=True)


@case("ResNet, training", "transformers")
def _(device: str) -> Program:
    from transformers import ResNetConfig, ResNetModel

    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    images = torch.randn(2, 3, 32, 32, device=device)
    return trained(
        ResNetModel(config).to(device), images, loss=lambda out: first(out.last_hidden_state)
    )


@case("Mamba, generate", "transformers")
def _(device: str) -> Program:
    from transformers import MambaConfig, MambaForCausalLM

    config = MambaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, state_size=4)
    return _generating(MambaForCausalLM(config).eval().to(device), device, do_sample=False)


@case("GPT-2, generate", "transformers")
def _(device: str) -> Program:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=2, n_positions=64)
    return _generating(GPT2LMHeadModel(config).eval().to(device), device, do_sample=True)


@case("Llama, generate with beams", "transformers")
def _(device: str) -> Program:
    return _generating(_causal("Llama", device, **LLAMA), device, num_beams=2, do_sample=False)


@case("T5, generate", "transformers")
def _(device: str) -> Program:
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        vocab_size=64,
        d_model=32,
        d_kv=16,
        d_ff=64,
        num_layers=2,
        num_heads=2,
        decoder_start_token_id=0,
    )
    model = T5ForConditionalGeneration(config).eval().to(device)
    return _generating(model, device, do_sample=False)


@case("BERT", "transformers")
def _(device: str) -> Program:
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
    )
    return once(BertModel(config).eval().to(device), _tokens(device))


@case("ViT, training", "transformers")
def _(device: str) -> Program:
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=32,
        patch_size=8,
    )
    images = torch.randn(2, 3, 32, 32, device=device)
    return trained(
        ViTModel(config).to(device), images, loss=lambda out: first(out.last_hidden_state)
    )


# timm, torchvision and torch-geometric


def _timm(name: str) -> Make:
    def make(device: str) -> Program:
        timm = importlib.import_module("timm")
        model = timm.create_model(name, pretrained=False, num_classes=10).eval().to(device)
        size = model.default_cfg["input_size"][-1]
        return once(model, torch.randn(1, 3, size, size, device=device))

    return make


def _torchvision(name: str) -> Make:
    def make(device: str) -> Program:
        models = importlib.import_module("torchvision.models")
        model = getattr(models, name)(weights=None).eval().to(device)
        return once(model, torch.randn(1, 3, 64, 64, device=device))

    return make


def _graph(name: str) -> Make:
    def make(device: str) -> Program:
        models = importlib.import_module("torch_geometric.nn.models")
        model = getattr(models, name)(8, 16, 2, dropout=0.5).to(device)
        edges = torch.randint(0, 20, (2, 60), device=device)
        return trained(model, torch.randn(20, 8, device=device), edges, loss=first)

    return make


for _name in ("resnet10t", "test_vit", "mobilenetv3_small_050", "test_efficientnet"):
    CASES[f"timm {_name}"] = "timm", _timm(_name)
for _name in ("resnet18", "mobilenet_v3_small", "squeezenet1_1"):
    CASES[f"torchvision {_name}"] = "torchvision", _torchvision(_name)
for _name in ("GCN", "GAT", "GraphSAGE", "GIN"):
    CASES[f"torch-geometric {_name}"] = "torch_geometric", _graph(_name)


# Comparing


def _random_state() -> list[Any]:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return [random.getstate(), np.random.get_state(), torch.get_rng_state(), cuda]


def state_after(make: Make, device: str, profiled: Profiled) -> dict[str, Any]:
    """What a program gets and leaves behind, from one seed."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    program = make(device)
    output = program.run(profiled)
    model = program.model
    return {
        "outputs": output,
        "parameters": [each.detach() for each in model.parameters()],
        "buffers": [each.detach() for each in model.buffers()],
        "gradients": [each.grad for each in model.parameters()],
        "random state": _random_state(),
        **_python_state(model),
        "other state": [look() for look in program.others],
        "flags": [each.training for each in model.modules()],
    }


def _python_state(model: nn.Module) -> dict[str, Any]:
    held = attributes(model)
    return {
        f"Python state: {name}.{attribute}": value
        for name, module in model.named_modules()
        for attribute, value in held.get(module, {}).items()
    }


def checked(make: Make, device: str) -> dict[str, Any]:
    """Which parts of a program's state differ where it is profiled."""
    profiled = Profiled()
    plain = state_after(make, device, Unprofiled())
    again = state_after(make, device, Unprofiled())
    other = state_after(make, device, profiled)
    # What is not the same in two programs that are both unprofiled tells nothing.
    told = [part for part in plain if same(plain[part], again.get(part))]
    differing = [part for part in told if not same(plain[part], other.get(part))]
    differing += sorted(set(other) - set(plain))
    layers = int((profiled.profiles[0].table("layers")["kind"] != "none").sum())
    incomparable = sorted(set(plain) - set(told))
    return {
        "equal": not differing,
        "differing": differing,
        "incomparable": incomparable,
        "layers": layers,
    }


def result(package: str, make: Make, device: str) -> dict[str, Any]:
    """The outcome of one case."""
    if importlib.util.find_spec(package) is None:
        return {"absent": package}
    try:
        return checked(make, device)
    except ModuleNotFoundError as error:
        return {"absent": error.name}
    except Exception as error:
        return {"equal": False, "error": f"{type(error).__name__}: {error}"[:300]}


def make_torchvision_importable() -> None:
    """Also beside a PyTorch without CUDA, for which PyPI has no wheel of it."""
    with contextlib.suppress(ModuleNotFoundError):
        import plain_torchvision  # noqa: F401  (before torchvision)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", default="", help="cases whose name has this")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    make_torchvision_importable()
    found = {}
    for name, (package, make) in CASES.items():
        if arguments.only in name:
            found[name] = result(package, make, arguments.device)
            print(f"{name}: {found[name]}", flush=True)
    run = [each for each in found.values() if "absent" not in each]
    equal = sum(each["equal"] for each in run)
    print(f"{equal} of {len(run)} left as found; {len(found) - len(run)} absent")
    if arguments.json:
        facts = {"environment": environment(), "equal": equal, "run": len(run), "cases": found}
        arguments.json.write_text(json.dumps(facts, indent=1) + "\n")
    return 0 if equal == len(run) else 1


if __name__ == "__main__":
    sys.exit(main())
