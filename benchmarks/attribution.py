"""Synthetic models whose layers launch known numbers of kernels: is every kernel found under its
true layer?

`fidelity.py` reports them as (d), and tests/gpu/test_attribution_gpu.py holds them to 100 %. The
models only use operations that launch one kernel each, so what is true follows from their code.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

import xsp
from xsp.machine.environment import environment

Kernels = dict[tuple[str, str], int]
"""Kernels of one run by layer and phase."""


class Scale(nn.Module):
    """Launches `times` kernels forward, and as many backward."""

    def __init__(self, times: int, inplace: bool = False) -> None:
        super().__init__()
        self.times, self.inplace = times, inplace

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _scaled(x, self.times, inplace=self.inplace)


def _scaled(x: torch.Tensor, times: int, *, inplace: bool = False) -> torch.Tensor:
    for _ in range(times):
        x = x.mul_(1.5) if inplace else x * 1.5
    return x


class Sine(nn.Module):
    """Launches `times` kernels forward and twice as many backward, for which it keeps its
    inputs.
    """

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(self.times):
            x = x.sin()
        return x


class Residual(nn.Module):
    """A layer and a functional call beside it."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.scale = Scale(times)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.scale(x) + x
        return output


class Doubled(torch.autograd.Function):
    """Launches one kernel forward and three backward, by torch functions as extensions do."""

    @staticmethod
    def forward(_ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x * 2.0

    @staticmethod
    def backward(_ctx: Any, *gradients: torch.Tensor) -> Any:
        (gradient,) = gradients
        return gradient.sin().sin() * 2.0


def _doubled(x: torch.Tensor) -> torch.Tensor:
    output: torch.Tensor = Doubled.apply(x)  # type: ignore[no-untyped-call] # torch's own
    return output


@dataclass
class Answer:
    """An output that pytree does not open."""

    score: torch.Tensor


class Answering(nn.Module):
    """A layer whose output is in an object of its own class."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    def forward(self, x: torch.Tensor) -> Answer:
        return Answer(_scaled(x, self.times))


class Nested(nn.Module):
    """Modules inside modules, one of them called twice, and functional calls between them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Residual(3), nn.Sequential(Residual(5), Scale(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.first(self.second(self.first(x))))


class OnThreads(nn.Module):
    """Two layers that launch from threads of the program's own, at the same time."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.last = Scale(6), Scale(4), Scale(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: dict[str, torch.Tensor] = {}
        threads = [
            threading.Thread(target=lambda side=side: found.__setitem__(side, self._side(side, x)))
            for side in ("left", "right")
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        output: torch.Tensor = self.last(found["left"] + found["right"])
        return output

    def _side(self, side: str, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            output: torch.Tensor = getattr(self, side)(x)
            return output


@dataclass(frozen=True)
class Case:
    """A program made for a device, and how many kernels each of its layers launches.

    `whole` says that these are all the kernels of a run; otherwise there are others, under names
    not listed here.
    """

    make: Callable[[str], Callable[[], Any]]
    kernels: Kernels
    whole: bool = False


def _inference(model: nn.Module) -> Callable[[str], Callable[[], Any]]:
    def make(device: str) -> Callable[[], Any]:
        x = torch.randn(64, device=device)

        def infer() -> Any:
            with torch.no_grad():
                return model(x)

        return infer

    return make


def _training(model: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[str], Callable[[], Any]]:
    def make(device: str) -> Callable[[], Any]:
        def step() -> None:
            x = torch.randn(64, device=device, requires_grad=True)
            model(x * 2.0).sum().backward()

        return step

    return make


def _checkpointed(reentrant: bool) -> Callable[[torch.Tensor], torch.Tensor]:
    inner = nn.Sequential(Sine(3), Sine(2))

    def forward(x: torch.Tensor) -> torch.Tensor:
        # Without reentrance recomputation would stop as soon as backward has what it needs.
        with set_checkpoint_early_stop(False):
            output: torch.Tensor = checkpoint(inner, x, use_reentrant=reentrant)
            return output

    return forward


def _answered() -> Callable[[torch.Tensor], torch.Tensor]:
    before, answering, after = Scale(2), Answering(3), Scale(4)
    return lambda x: after(answering(before(x)).score)


class Opaque:
    """An output whose tensor no attribute leads to."""

    __slots__ = ("get",)

    def __init__(self, held: torch.Tensor) -> None:
        self.get = lambda: held


class Keeping(nn.Module):
    """A layer whose outputs do not lead to all that it made: one tensor is kept in an attribute for
    the loss, the other is in an object that cannot be looked into.
    """

    def forward(self, x: torch.Tensor) -> Opaque:
        self.kept = _scaled(x, 2)
        return Opaque(_scaled(x, 3))


def _kept() -> Callable[[torch.Tensor], torch.Tensor]:
    before, keeping, after = Scale(2), Keeping(), Scale(4)

    def forward(x: torch.Tensor) -> torch.Tensor:
        hidden = keeping(before(x)).get()
        return torch.cat([after(hidden), keeping.kept])

    return forward


class DoublingLeaf(nn.Module):
    """A leaf that applies a custom Function."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _doubled(x)


def _compiled() -> Callable[[torch.Tensor], torch.Tensor]:
    before, after = Scale(2), Scale(4)

    def between(x: torch.Tensor) -> torch.Tensor:
        return _scaled(x, 3)

    # Without a code generator compiled code launches what its operators launch.
    compiled = torch.compile(between, backend="aot_eager")

    def forward(x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = after(compiled(before(x)))
        return output

    return forward


class Weighted(nn.Module):
    """Launches one kernel forward, and one for each gradient backward."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight


def _bucketed(device: str) -> Callable[[], Any]:
    """DistributedDataParallel in a group of this process alone, which lasts as long as the
    process.
    """
    if not dist.is_initialized():
        backend = "nccl" if device == "cuda" else "gloo"
        store = dist.HashStore()  # type: ignore[attr-defined] # public, and exported silently
        dist.init_process_group(backend, store=store, rank=0, world_size=1)
    parallel = nn.parallel.DistributedDataParallel(nn.Sequential(Weighted(), Weighted()).to(device))

    def step() -> None:
        # A new leaf each time: adding to a gradient that is there would be a kernel more.
        x = torch.randn(64, device=device, requires_grad=True)
        parallel(x * 2.0).sum().backward()

    return step


def _coroutine(device: str) -> Callable[[], Any]:
    model, x = Scale(3), torch.randn(64, device=device)

    async def step() -> None:
        for _ in range(2):
            await asyncio.sleep(0)
            model(x)

    return step


def _generator(device: str) -> Callable[[], Any]:
    model, x = Scale(3), torch.randn(64, device=device)

    def step() -> Iterator[torch.Tensor]:
        for _ in range(4):
            yield model(x)

    return step


def _after_an_earlier_graph(device: str) -> Callable[[], Any]:
    model = Scale(2)
    leaf = torch.randn(64, device=device, requires_grad=True)
    earlier = leaf.sin().sin()

    def step() -> None:
        leaf.grad = None  # adding to one that is there would be a kernel more
        model(earlier).sum().backward(retain_graph=True)

    return step


def _hooked(x: torch.Tensor) -> torch.Tensor:
    y = x * 2.0
    y.register_hook(lambda gradient: gradient.sin())
    output: torch.Tensor = _SCALED(y)
    return output


_SCALED = Scale(3)
_STEP = {("step::randn", "forward"): 1, ("step::mul", "forward"): 1, ("step::mul", "backward"): 1}
_RECOMPUTED = {("0", "forward"): 6, ("1", "forward"): 4, ("0", "backward"): 6, ("1", "backward"): 4}
_SHARED = Scale(3)

CASES: dict[str, Case] = {
    "nested, shared, functional": Case(
        _inference(Nested()),
        {
            ("first.scale", "forward"): 6,
            ("first::add", "forward"): 2,
            ("second.0.scale", "forward"): 5,
            ("second.0::add", "forward"): 1,
            ("second.1", "forward"): 2,
            ("::relu", "forward"): 1,
        },
        whole=True,
    ),
    "backward, in-place": Case(
        _training(nn.Sequential(Scale(3), Scale(4, inplace=True), Scale(2))),
        {
            (name, phase): n
            for name, n in (("0", 3), ("1", 4), ("2", 2))
            for phase in ("forward", "backward")
        }
        | _STEP,
    ),
    "backward, shared": Case(
        _training(nn.Sequential(_SHARED, Sine(2), _SHARED)),
        {("0", "forward"): 6, ("1", "forward"): 2, ("0", "backward"): 6, ("1", "backward"): 4}
        | _STEP,
    ),
    "checkpointed": Case(_training(_checkpointed(reentrant=False)), _RECOMPUTED | _STEP),
    "checkpointed, reentrant": Case(_training(_checkpointed(reentrant=True)), _RECOMPUTED | _STEP),
    "custom Function": Case(
        _training(lambda x: _SCALED(_doubled(x))),
        {
            ("step::Doubled", "forward"): 1,
            ("step::Doubled", "backward"): 3,
            ("_SCALED", "forward"): 3,
            ("_SCALED", "backward"): 3,
        }
        | _STEP,
    ),
    "outputs in an object": Case(
        _training(_answered()),
        {
            ("answering", "forward"): 3,
            ("answering", "backward"): 3,
            ("before", "backward"): 2,
            ("after", "backward"): 4,
        }
        | _STEP,
    ),
    "custom Function in a leaf": Case(
        _training(DoublingLeaf()),
        {("model", "forward"): 1, ("model", "backward"): 3} | _STEP,
    ),
    "outputs that lead to no node": Case(
        _training(_kept()),
        {
            ("keeping", "forward"): 5,
            # With the sum of the gradients of its two tensors, of which it is the consumer.
            ("keeping", "backward"): 6,
            ("before", "backward"): 2,
            ("after", "backward"): 4,
        }
        | {key: number for key, number in _STEP.items() if key[1] == "forward"},
    ),
    "compiled": Case(
        _training(_compiled()),
        {
            ("step::between", "forward"): 3,
            ("step::between", "backward"): 3,
            ("before", "backward"): 2,
            ("after", "backward"): 4,
        }
        | _STEP,
    ),
    "gradient buckets": Case(
        _bucketed,
        {(f"module.{place}", "forward"): 1 for place in (0, 1)}
        | {(f"module.{place}", "backward"): 2 for place in (0, 1)}
        | _STEP,
    ),
    "coroutine": Case(_coroutine, {("model", "forward"): 6}, whole=True),
    "generator": Case(_generator, {("model", "forward"): 12}, whole=True),
    "a graph from before": Case(
        _after_an_earlier_graph,
        {("model", "forward"): 2, ("model", "backward"): 2, ("(no owner)", "backward"): 4},
    ),
    "a hook in backward": Case(
        _training(_hooked),
        {("_SCALED", "backward"): 3, ("step::sin", "backward"): 1},
    ),
    "threads": Case(
        _inference(OnThreads()),
        {
            ("left", "forward"): 6,
            ("right", "forward"): 4,
            ("::add", "forward"): 1,
            ("last", "forward"): 2,
        },
        whole=True,
    ),
}


def kernels_by_layer(program: Callable[[], Any]) -> Kernels:
    """Kernels of one run by (layer, phase), from a profile that lost none."""
    prof = xsp.measure(program, iterations=2, progress=False)
    assert prof.lost == 0, f"{prof.lost} records were lost"
    layers = prof.tree().query("level == 'LAYER' and kernels > 0")
    return {
        (str(name), str(phase)): int(kernels)
        for name, phase, kernels in layers[["name", "phase", "kernels"]].itertuples(index=False)
    }


def judged(case: Case, found: Kernels) -> dict[str, Any]:
    """How many kernels of a case were found under their true layer, and each layer that has
    others.
    """
    layers = case.kernels | (
        dict.fromkeys(found.keys() - case.kernels.keys(), 0) if case.whole else {}
    )
    wrong = {
        key: (true, found.get(key, 0)) for key, true in layers.items() if found.get(key, 0) != true
    }
    kernels = sum(case.kernels.values())
    right = sum(min(true, found.get(key, 0)) for key, true in case.kernels.items())
    surplus = sum(max(got - true, 0) for true, got in wrong.values())
    return {
        "kernels": kernels,
        "right_percent": round(100 * (right - surplus) / kernels, 3),
        "wrong": [
            {"layer": name, "phase": phase, "launched": true, "found": got}
            for (name, phase), (true, got) in wrong.items()
        ],
    }


def attribution(device: str = "cuda") -> dict[str, Any]:
    """Every case by name, see `judged`."""
    return {name: judged(case, kernels_by_layer(case.make(device))) for name, case in CASES.items()}


def encoder_fast_path() -> dict[str, Any]:
    """`nn.TransformerEncoder` at inference: kernels of one run as torch.profiler counts them, and
    how many a profile has under the fused layers and in all.
    """
    layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).cuda().eval()
    x = torch.randn(4, 16, 64, device="cuda")

    def infer() -> None:
        with torch.no_grad():
            model(x)

    found = kernels_by_layer(infer)
    fused = sum(n for (name, _), n in found.items() if "transformer_encoder_layer_fwd" in name)
    return {"kernels": _counted_by_torch(infer), "found": sum(found.values()), "fused": fused}


def _counted_by_torch(program: Callable[[], Any]) -> int:
    """Kernels, copies and sets of a run, from torch.profiler's records of the device."""
    program()
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as trace:
        program()
        torch.cuda.synchronize()
    return sum(str(event.device_type).endswith("CUDA") for event in trace.events())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    cases = attribution(arguments.device)
    facts: dict[str, Any] = {"environment": environment(), "cases": cases}
    if arguments.device == "cuda":
        facts["encoder_fast_path"] = encoder_fast_path()
    for name, found in cases.items():
        print(f"{name}: {found['right_percent']} % of {found['kernels']} kernels {found['wrong']}")
    print(facts.get("encoder_fast_path", ""))
    if arguments.json:
        arguments.json.write_text(json.dumps(facts, indent=1) + "\n")
    return 0 if all(found["right_percent"] == 100 for found in cases.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
