"""Two GPUs and NCCL: are collectives matched one to one, and is a known delay of one rank found?

    python benchmarks/two_gpus.py [--device cuda] [--budget-s 4] [--delay-ms 10] [--only ddp ...]
        [--json out.json]

Three programs (DDP's ResNet-50, FSDP2, a transformer divided by columns and rows) are profiled on
two ranks, once as they are and once with rank 1 slowed: on a GPU by a kernel that waits so long by
the GPU's nanosecond timer, on a CPU by a wait. What the delay takes is measured with events, and
what CUPTI recorded of the waiting kernel stands beside it. What is found should be that: as the
other rank's waiting with nothing else to do, beyond what it waits so without the delay, and as the
time of the layer that waits.

The kernels of a step are compared with torch.profiler's, which has no part in the others. Every
option of `xsp.measure` but the time is the default, and the time too without `--budget-s`. On a GPU
the programs are large enough for it to be the limit: what waits for the host hides a delay of the
GPU.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)
from torch.multiprocessing.spawn import start_processes
from torch.nn.parallel import DistributedDataParallel
from torch_counts import counted_by_torch

import xsp
from xsp.machine.environment import environment

RANKS = 2
SLOW = 1
_WAIT = """
extern "C" __global__ void wait(int us) {
    unsigned long long now, end;
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(end));
    end += us * 1000ull;
    do {
        asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
    } while (now < end);
}
"""


@cache
def waiting_kernel() -> Any:
    """Waits so many us, whatever the GPU's clock: cycles last longer where power is capped."""
    return torch.cuda._compile_kernel(_WAIT, "wait")


Step = Callable[[], None]


class Delay(nn.Module):
    """Lets everything behind it come later by about so many ms; by none if `ms` is 0."""

    def __init__(self, ms: float) -> None:
        super().__init__()
        self.ms = ms

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The input itself."""
        if self.ms and x.is_cuda:
            waiting_kernel()((1, 1, 1), (1, 1, 1), (int(1e3 * self.ms),))
        elif self.ms:
            time.sleep(self.ms / 1e3)
        return x


class Delayed(nn.Module):
    """A model with a delay before it."""

    def __init__(self, model: nn.Module, ms: float) -> None:
        super().__init__()
        self.delay, self.model = Delay(ms), model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The model's output, later."""
        output: torch.Tensor = self.model(self.delay(x))
        return output


class Block(nn.Module):
    """A transformer's feed-forward network with a residual."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As in a transformer."""
        inner: torch.Tensor = self.down(torch.nn.functional.gelu(self.up(self.norm(x))))
        return x + inner


def data_parallel(device: str, ms: float) -> Step:
    """A training step, its gradients summed over ranks: of ResNet-50, on a CPU of blocks."""
    if device == "cuda":
        from torchvision.models import resnet50

        network, x = resnet50(), torch.rand(128, 3, 224, 224, device=device)
    else:
        network, x = nn.Sequential(*[Block(64) for _ in range(6)]), torch.rand(16, 64)
    model = DistributedDataParallel(Delayed(network, ms).to(device))

    def step() -> None:
        model.zero_grad()
        model(x).square().mean().backward()

    return step


def sharded(device: str, ms: float) -> Step:
    """A training step of blocks whose parameters are divided among ranks (FSDP2)."""
    blocks, x = _blocks(device)
    mesh = init_device_mesh(device, (RANKS,))
    for block in blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(blocks, mesh=mesh)
    model = Delayed(blocks, ms)

    def step() -> None:
        model(x).square().mean().backward()
        model.zero_grad()

    return step


def tensor_parallel(device: str, ms: float) -> Step:
    """Inference of blocks whose products are divided by columns and rows."""
    blocks, x = _blocks(device)
    mesh = init_device_mesh(device, (RANKS,))
    for block in blocks:
        parallelize_module(block, mesh, {"up": ColwiseParallel(), "down": RowwiseParallel()})
    model = Delayed(blocks, ms)

    def step() -> None:
        with torch.no_grad():
            model(x)

    return step


def _blocks(device: str) -> tuple[nn.Sequential, torch.Tensor]:
    width, tokens, dtype = (4_096, 8_192, torch.bfloat16) if device == "cuda" else (64, 16, None)
    blocks = nn.Sequential(*[Block(width) for _ in range(6)]).to(device, dtype)
    return blocks, torch.rand(tokens, width, device=device, dtype=dtype)


PROGRAMS = {"ddp": data_parallel, "fsdp2": sharded, "tensor parallel": tensor_parallel}


def delay_ms(device: str, asked_ms: float) -> float:
    """What the delay takes by itself, of the median of thirty."""
    delay, x = Delay(asked_ms), torch.ones(1, device=device)
    took: list[float] = []
    for _ in range(30):
        if device == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            delay(x)
            end.record()
            end.synchronize()
            took.append(float(begin.elapsed_time(end)))
        else:
            start = time.perf_counter()
            delay(x)
            took.append(1e3 * (time.perf_counter() - start))
    return sorted(took)[15]


def rank_of(rank: int, options: argparse.Namespace, folder: str) -> None:
    """One rank: every program with and without the delay, a capture of each."""
    device, budget_s, names = options.device, options.budget_s, options.only
    torch.set_num_threads(1)
    if device == "cuda":
        torch.cuda.set_device(rank)
    store = f"file://{folder}/store"
    backend = "nccl" if device == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=store, rank=rank, world_size=RANKS)
    found: dict[str, Any] = {"delay_ms": delay_ms(device, options.delay_ms)}
    spent = {} if budget_s is None else {"budget_s": budget_s}
    for name in names:
        for way, ms in (("equal", 0.0), ("slowed", options.delay_ms)):
            torch.manual_seed(0)
            step = PROGRAMS[name](device, ms if rank == SLOW else 0.0)
            for _ in range(3):
                step()
            dist.barrier()
            row: dict[str, Any] = {}
            if device == "cuda":
                row["torch_profiler_kernels"] = counted_by_torch(step)
            begin = time.monotonic()
            prof = xsp.measure(step, progress=False, **spent)
            row["wall_s"] = time.monotonic() - begin
            prof.save(Path(folder) / f"{name}-{way}-{rank}.xsp")
            row |= {
                "budget_s": budget_s,
                "kernels": prof.kernel_count,
                "rounds": int(prof.runs["round"].nunique()),
                "latency_ms": prof.latency_ms,
                "warnings": [str(warning)[:160] for warning in prof.warnings],
                "lost": prof.lost,
            }
            found[f"{name}, {way}"] = row
    (Path(folder) / f"rank{rank}.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


def compared(folder: Path, name: str) -> dict[str, Any]:
    """What two captures each of the program as it is and of the slowed one tell together."""
    jobs = {
        way: xsp.merge([folder / f"{name}-{way}-{rank}.xsp" for rank in range(RANKS)])
        for way in ("equal", "slowed")
    }
    waits = {way: job.ranks().set_index("rank").to_dict() for way, job in jobs.items()}
    fast = 1 - SLOW
    slowed, equal = (waits[way] for way in ("slowed", "equal"))
    more = slowed["exposed_waiting_ms"][fast] - equal["exposed_waiting_ms"][fast]
    half = math.hypot(*(each["exposed_waiting_ci_ms"][fast] for each in waits.values()))
    stragglers = jobs["slowed"].stragglers()
    sleeping = stragglers[stragglers["name"].astype(str).str.endswith("delay")]
    events = jobs["slowed"].events
    both = events.groupby(["round", "number"])
    return {
        "collectives_a_step": int(events["number"].nunique()),
        "matched": bool((both["rank"].nunique() == RANKS).all()),
        "same_type": bool((both["type"].nunique() == 1).all()),
        "fast_rank_waits_more_ms": float(more),
        "half_width_ms": float(half),
        "of_the_delay": _share(more, sleeping),
        "fast_rank": {way: _of_rank(each, fast) for way, each in waits.items()},
        "stragglers": json.loads(sleeping.to_json(orient="records")),
        "sentences": jobs["slowed"].sentences,
        "collectives": json.loads(jobs["equal"].collectives().to_json(orient="records")),
        "collectives_slowed": json.loads(jobs["slowed"].collectives().to_json(orient="records")),
    }


def _share(more_ms: float, sleeping: pd.DataFrame) -> float | None:
    """What was found as waiting, over what the layer that sleeps took longer on the device, or,
    where nothing was recorded there, on the host.
    """
    for where in ("device", "host"):
        found = sleeping.loc[sleeping["where"] == where, "excess_ms"]
        if len(found):
            return round(more_ms / float(found.iloc[0]), 4)
    return None


def _of_rank(columns: Mapping[Any, Mapping[int, float]], rank: int) -> dict[str, float]:
    names = ("waiting_ms", "exposed_waiting_ms", "exposed_waiting_ci_ms", "exposed_moving_ms")
    return {name: round(float(columns[name][rank]), 4) for name in names}


def main() -> None:
    """Run both ranks and compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--budget-s", type=float, help="seconds for each profile; else xsp's own")
    parser.add_argument("--delay-ms", type=float, default=10.0)
    parser.add_argument("--only", nargs="+", default=list(PROGRAMS), choices=PROGRAMS)
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    os.environ.setdefault("NCCL_NVLS_ENABLE", "0")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        start_processes(rank_of, (options, place), nprocs=RANKS)
        ranks = [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(RANKS)]
        programs: dict[str, Any] = {}
        for name in options.only:
            try:
                programs[name] = compared(folder, name)
            except xsp.XspError as error:
                programs[name] = {"error": str(error)}
            print(name, json.dumps(programs[name])[:1_500], flush=True)
    found = {"environment": environment(), "ranks": ranks, "programs": programs}
    print(json.dumps(ranks))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
