"""Programs of four ranks for tests/test_four_ranks.py, run one after another as a script.

What a profile imports is imported once, and the ranks of each program are forked from there.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as funcol
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, schedules
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)
from torch.nn.parallel import DistributedDataParallel

import xsp

RANKS = 4
KILLED = 2
ROUNDS = 3
ROUNDS_BEFORE = 2
QUICK: dict[str, Any] = {"levels": "M/L", "warmup": 1, "progress": False}


def network() -> nn.Sequential:
    """A small model, the same on every rank."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))


class Steps:
    """Training steps of a model, counted, with a sum over ranks of its loss."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.made = 0

    def __call__(self) -> None:
        """One step."""
        self.made += 1
        self.model.zero_grad()
        loss = self.model(torch.ones(4, 8) + dist.get_rank()).square().sum()
        loss.backward()
        dist.all_reduce(loss.detach())


def data_parallel() -> Steps:
    """Gradients are summed over ranks."""
    return Steps(DistributedDataParallel(network()))


def sharded() -> Steps:
    """Each rank has a part of each layer's parameters."""
    model = network()
    mesh = init_device_mesh("cpu", (RANKS,))
    for layer in (model[0], model[2], model):
        fully_shard(layer, mesh=mesh)
    return Steps(model)


def in_two_dimensions() -> Steps:
    """Pairs of ranks share each layer, and the two pairs the batch."""
    mesh = init_device_mesh("cpu", (RANKS // 2, 2), mesh_dim_names=("batch", "layer"))
    plan = {"1.0": ColwiseParallel(), "1.2": RowwiseParallel()}
    model = nn.Sequential(nn.Linear(8, 8), network())
    return Steps(parallelize_module(model, mesh["layer"], plan))


class Pipeline:
    """Steps of a pipeline with a stage on each rank, counted."""

    def __init__(self) -> None:
        rank = dist.get_rank()
        self.made = 0
        self.is_first, self.is_last = rank == 0, rank == RANKS - 1
        torch.manual_seed(rank)
        module = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
        stage = PipelineStage(module, rank, RANKS, torch.device("cpu"))
        self.schedule = Schedule1F1B(stage, n_microbatches=RANKS, loss_fn=nn.functional.mse_loss)

    def __call__(self) -> None:
        """One step."""
        self.made += 1
        given = (torch.ones(8, 8),) if self.is_first else ()
        wanted: dict[str, Any] = {"target": torch.zeros(8, 8)} if self.is_last else {}
        self.schedule.step(*given, **wanted)


class InGroups:
    """Steps with collectives of a mesh of two by two: those of both dimensions are on the way at
    the same time, and waited for in another order; ranks make different numbers of them.
    """

    def __init__(self) -> None:
        mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
        self.data, self.tensor = mesh.get_group("data"), mesh.get_group("tensor")
        self.again = dist.new_group([0, 1, 2, 3])
        self.made = 0

    def __call__(self) -> None:
        """One step."""
        self.made += 1
        first = dist.all_reduce(torch.ones(8), group=self.tensor, async_op=True)
        second = dist.all_reduce(torch.ones(2), group=self.data, async_op=True)
        if dist.get_rank() >= RANKS // 2:
            dist.all_reduce(torch.ones(3), group=self.tensor)
        if dist.get_rank() % 2:
            dist.barrier(group=self.data)
        third = dist.all_reduce(torch.ones(4), group=self.again, async_op=True)
        fourth = dist.all_reduce(torch.ones(5), async_op=True)
        for work in (second, first, fourth, third):
            work.wait()
        dist.all_gather([torch.zeros(6), torch.zeros(6)], torch.ones(6), group=self.data)
        other = dist.get_rank() ^ 1
        passed = [
            dist.isend(torch.ones(7), other, group=self.tensor),
            dist.irecv(torch.ones(7), other, group=self.tensor),
        ]
        for transfer in passed:
            assert transfer is not None
            transfer.wait()


WAYS: dict[str, Callable[[], Any]] = {
    "ddp": data_parallel,
    "fsdp": sharded,
    "mesh": in_two_dimensions,
    "groups": InGroups,
    "pipeline": Pipeline,
}


def together(rank: int, folder: Path) -> dict[str, Any]:
    """Each way profiled on every rank, and saved."""
    found: dict[str, Any] = {}
    before = replaceable()
    for name, made in WAYS.items():
        step = made()
        prof = xsp.measure(step, iterations=ROUNDS, **QUICK)
        prof.save(folder / f"{name}-rank{rank}.xsp")
        found[name] = step.made
    return {**found, "as_before": replaceable() == before}


def replaceable() -> list[Any]:
    """What a profile of ranks replaces while it traces: functions of torch.distributed and of its
    users, those of Work and P2POp, and kernels of c10d's operators at autograd's key.
    """
    functions = [getattr(dist, name) for name in ("isend", "irecv", "all_reduce", "P2POp")]
    functional = [funcol.all_reduce, funcol.wait_tensor, schedules._batch_p2p]
    kernels = [
        torch._C._dispatch_has_kernel_for_dispatch_key(f"c10d::{name}", "AutogradCPU")
        for name in ("allreduce_", "send", "recv_")
    ]
    functions.append(vars(dist.Work)["wait"])
    return [*functions, dist.P2POp.__init__, dist.P2POp.__new__, *functional, *kernels]


def killed_in_a_step(rank: int, folder: Path) -> dict[str, Any]:
    """One rank is killed in a step, where the others wait for its gradients."""
    step = data_parallel()
    step()

    def one() -> None:
        if rank == KILLED and step.made == 6:
            os.kill(os.getpid(), signal.SIGKILL)
        step()

    return error_of(one, iterations=50)


def killed_between_rounds(rank: int, folder: Path) -> dict[str, Any]:
    """One rank is killed between rounds, where the others wait for its word on going on."""

    def rule(runs: Any) -> None:
        if rank == KILLED and runs[-1].round == ROUNDS_BEFORE:
            os.kill(os.getpid(), signal.SIGKILL)

    return error_of(data_parallel(), stop=rule)


def error_of(step: Any, **options: Any) -> dict[str, Any]:
    """How profiling ends."""
    try:
        xsp.measure(step, **options, **QUICK)
    except Exception as error:
        return {
            "error": str(error),
            "type": type(error).__name__,
            "expected": isinstance(error, xsp.XspError),
        }
    return {}


def rank_of(program: str, rank: int, folder: Path) -> None:
    """One rank's process."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder / 'met'}",
        rank=rank,
        world_size=RANKS,
        timeout=timedelta(seconds=240),
    )
    told = globals()[program](rank, folder)
    (folder / f"rank{rank}.json").write_text(json.dumps(told))
    # Not destroyed: where one rank is gone the others would wait for it.
    os._exit(0)


def run_program(program: str, folder: Path) -> None:
    """All ranks of one; their exit statuses are written when all have ended."""
    folder.mkdir()
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=rank_of, args=(program, rank, folder)) for rank in range(RANKS)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    statuses = [process.exitcode for process in processes]
    (folder / "statuses.json").write_text(json.dumps(statuses))


if __name__ == "__main__":
    torch.set_num_threads(1)
    with torch.no_grad():  # Autograd's threads would not be there in the forked processes.
        xsp.measure(network(), torch.ones(1, 8), iterations=1, **QUICK)
    for each in (together, killed_in_a_step, killed_between_rounds):
        run_program(each.__name__, Path(sys.argv[1]) / each.__name__)
