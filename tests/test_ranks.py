"""Ranks that profile together make the same runs, and an end of one is an error of the others."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

import xsp

pytestmark = pytest.mark.skipif(
    not dist.is_available() or not dist.is_gloo_available(), reason="needs torch.distributed, gloo"
)

HEAD = """
import datetime, json, os, random, sys, time
import torch, torch.distributed as dist
from torch import nn
import xsp
from xsp.measuring import ranks
torch.set_num_threads(1)
rank = int(os.environ["RANK"])
dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=240))
torch.manual_seed(0)
model = nn.parallel.DistributedDataParallel(nn.Linear(8, 8))
noise = random.Random(rank)

def step():
    if rank:
        time.sleep(noise.random() * 0.004)
    model(torch.ones(4, 8)).sum().backward()

def told(**facts):
    print(json.dumps(facts), flush=True)
"""


def _port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


def run_ranks(code: str, number: int = 2) -> list[tuple[int, dict[str, Any], str]]:
    """Exit status, last line printed and errors of each rank."""
    environment = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_port()),
        "WORLD_SIZE": str(number),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(xsp.__file__).parents[1]),
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", HEAD + textwrap.dedent(code)],
            env={**environment, "RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(number)
    ]
    found = []
    try:
        for process in processes:
            out, error = process.communicate(timeout=240)
            lines = [line for line in out.splitlines() if line.startswith("{")]
            found.append((process.returncode, json.loads(lines[-1]) if lines else {}, error))
    finally:
        for process in processes:
            process.kill()
    return found


def test_ranks_end_after_the_same_round_or_say_what_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DDP with the default rule, on three ranks of which two are slow now and then, ends on all of
    them, after the same rounds in the same order. Options that differ are an error on every rank,
    and a rank can profile something of its own. Their captures are one trace and merge into a job,
    in which every step waits once for the gradients.
    """
    monkeypatch.setenv("FOLDER", str(tmp_path))
    found = run_ranks(
        """
        said = ""
        try:
            xsp.measure(step, levels="M", iterations=3 + rank, progress=False)
        except xsp.TargetError as error:
            said = str(error)
        own = xsp.measure(
            torch.ones, 2, levels="M", iterations=2 + rank, warmup=1, alone=True, progress=False
        )
        prof = xsp.measure(step, levels="M/L", budget_s=2, progress=False)
        prof.save(os.path.join(os.environ["FOLDER"], f"rank{rank}.xsp"))
        told(error=said, own=len(own.runs), rungs=list(prof.runs["rung"]))
        dist.destroy_process_group()
        """,
        number=3,
    )
    assert [status for status, _, _ in found] == [0, 0, 0], found
    told = [each for _, each, _ in found]
    assert all("'iterations': 4" in each["error"] and "rank 2" in each["error"] for each in told)
    assert [each["own"] for each in told] == [2, 3, 4]
    assert set(told[0]["rungs"]) == {"M", "M/L"}
    assert all(each["rungs"] == told[0]["rungs"] for each in told)
    job = xsp.merge(sorted(tmp_path.glob("rank*.xsp")))
    assert job.missing == []
    assert set(job.clocks["how"]) == {"the same clock"}
    assert job.collectives()["type"].tolist() == ["gradients"]
    rounds = told[0]["rungs"].count("M/L")
    assert job.events.groupby("rank").size().tolist() == [rounds] * 3


LOOP = """
def train(prof):
    noise.seed(rank)
    for each in model.parameters():
        each.data.fill_(0.1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for number in range(120):
        size = 3 if rank and number % 7 == 5 else 4
        if rank and number < 30:
            time.sleep(noise.random() * 0.004)
        optimizer.zero_grad()
        model(torch.ones(size, 8)).sum().backward()
        optimizer.step()
        if prof is not None:
            prof.step()
    return [each.sum().item() for each in model.parameters()]

without = train(None)
with xsp.profile(model, levels="M/L", budget_s=0.5, progress=False) as prof:
    with_xsp = train(prof)
names = set(prof.table("layers")["name"])
loop = dict(
    rungs=list(prof.runs["rung"]),
    same=with_xsp == without,
    buckets="(gradient buckets)" in names,
    other=[each for each in prof.warnings if "other-steps" in each],
)
"""

SHARDED = """
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

mesh = init_device_mesh("cpu", (2,))
model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
for layer in (model[0], model[2], model):
    fully_shard(layer, mesh=mesh)
x = torch.ones(4, 8) + rank

def train():
    model.zero_grad()
    model(x).square().sum().backward()

train()
expected = [each.grad.to_local().clone() for each in model.parameters()]
prof = xsp.measure(train, levels="M/L", iterations=2, warmup=0, progress=False)
train()
same = all(
    torch.equal(each.grad.to_local(), old)
    for each, old in zip(model.parameters(), expected)
)
layers = prof.table("layers")
named = layers["type"].str.contains("all_gather|reduce_scatter")
rows = layers[named & ~layers["type"].str.contains("copy")]
found = xsp.compare_targets(
    train, train, levels="M", budget_s=0.1 + rank, warmup=1, localise=False, progress=False
)
sharded = dict(
    same=same,
    rows=rows[["name", "phase"]].values.tolist(),
    unmatched=int(prof.runs["unmatched"].sum()),
    compared=found.verdict is not None,
)
"""


@pytest.fixture(scope="module")
def two_ranks() -> list[dict[str, Any]]:
    """What LOOP and SHARDED find on each of two ranks, one after the other."""
    end = "told(loop=loop, sharded=sharded)\ndist.destroy_process_group()\n"
    found = run_ranks(LOOP + SHARDED + end)
    assert [status for status, _, _ in found] == [0, 0], found
    return [each for _, each, _ in found]


def test_ranks_of_a_loop_measure_the_same_steps(two_ranks: list[dict[str, Any]]) -> None:
    """Along a loop of DDP with the default rule every rank takes the same rungs in the same steps,
    also where one rank's batch is another size now and then, and all end after the same round.
    Parameters are those of the loop without xsp.
    """
    told = [each["loop"] for each in two_ranks]
    assert told[0]["rungs"] == told[1]["rungs"]
    assert len(told[0]["rungs"]) >= 4
    assert all(each["same"] and each["buckets"] for each in told)
    assert "inputs of 3x8 instead of 4x8" in told[1]["other"][0]


def test_one_rank_that_runs_compiled_code_keeps_step_with_the_others() -> None:
    """Along a loop steps are watched for it on both ranks: each ends, and the rank that runs it
    leads its kernels to layers.
    """
    code = """
        class Inner(nn.Module):
            def __init__(self):
                super().__init__()
                self.product, self.act = nn.Linear(8, 8), nn.Tanh()

            def forward(self, x):
                return self.act(self.product(x))

        inner = Inner()
        if rank == 0:
            inner.compile()
        net = nn.parallel.DistributedDataParallel(nn.Sequential(inner, nn.Linear(8, 4)))
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        options = {"levels": "M/L", "iterations": 1, "warmup": 0, "progress": False}
        with xsp.profile(net, optimizer=optimizer, **options) as prof:
            for _ in range(30):
                optimizer.zero_grad()
                net(torch.ones(4, 8)).sum().backward()
                optimizer.step()
                prof.step()
        layers = sorted(set(prof.compiled()["layer"]))
        told(layers=layers, not_led=[each for each in prof.warnings if "not-led" in each])
        dist.destroy_process_group()
    """
    found = run_ranks(code)
    assert [status for status, _, _ in found] == [0, 0], found
    told = [each for _, each, _ in found]
    assert told[0]["layers"] == ["module.0.act", "module.0.product"]
    assert told[1]["layers"] == []
    assert not told[0]["not_led"] + told[1]["not_led"]


def test_collectives_of_fsdp_are_rows_forward_and_backward(
    two_ranks: list[dict[str, Any]],
) -> None:
    """With `fully_shard` the gathering of each layer's parameters is a row beside the layer in the
    forward pass, gathering and scattering in the backward pass have that phase, and gradients are
    those without xsp. Two targets are compared in the same rounds on every rank.
    """
    for each in (told["sharded"] for told in two_ranks):
        assert each["same"]
        assert each["unmatched"] == 0
        assert each["compared"]
        forward = [name for name, phase in each["rows"] if phase == "forward"]
        backward = [name for name, phase in each["rows"] if phase == "backward"]
        assert [name.split("::")[0] for name in forward] == ["0", "2"]
        assert all("all_gather" in name for name in forward)
        assert sum("reduce_scatter" in name for name in backward) == 2


def test_a_rank_that_ends_is_an_error_of_the_others() -> None:
    """A rank that goes away is noticed within the stated time, not waited for."""
    found = run_ranks(
        """
        ranks.PATIENCE_S = 3
        def alone():
            return torch.ones(2) * 2
        def rule(runs):
            if rank and len(runs) > 4:
                os._exit(3)
        try:
            xsp.measure(alone, levels="M", stop=rule, progress=False)
        except xsp.TargetError as error:
            told(error=str(error))
        os._exit(0)
        """
    )
    assert "one has ended or did not answer within 3 s" in found[0][1]["error"]


def test_a_rank_that_does_not_profile_is_not_waited_for_for_ever() -> None:
    """A profile on one rank alone ends in an error that names the option for it."""
    found = run_ranks(
        """
        ranks.PATIENCE_S = 3
        if rank == 0:
            try:
                xsp.measure(torch.ones, 2, levels="M", iterations=1, progress=False)
            except xsp.TargetError as error:
                told(error=str(error))
        else:
            time.sleep(8)
        os._exit(0)
        """
    )
    assert "profile on every rank, or pass alone=True" in found[0][1]["error"], found
