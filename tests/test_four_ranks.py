"""Four ranks of gloo: what they measure is matched one to one, one that is killed is an error of
the others, and `xsp run` keeps a capture of each.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from quick import TESTED

import xsp
from xsp.running.launched import LaunchedRank, launched_rank

pytestmark = pytest.mark.skipif(
    not dist.is_available() or not dist.is_gloo_available(), reason="needs torch.distributed, gloo"
)

RANKS, KILLED, ROUNDS, LIMIT_S = 4, 2, 3, 45
LONG_S = 240
"""Only what hangs takes so long."""

PROGRAMS = Path(__file__).with_name("rank_programs.py")

SCRIPT = """
import sys
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

dist.init_process_group("gloo")
model = DistributedDataParallel(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(int(sys.argv[1])):
    optimizer.zero_grad()
    model(torch.ones(4, 8)).square().sum().backward()
    optimizer.step()
dist.destroy_process_group()
"""


def ended(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Python, run with these arguments to its end; all of its processes are killed if it hangs."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(TESTED),
        "OMP_NUM_THREADS": "1",
        "XSP_RANK_TIMEOUT_S": str(LIMIT_S),
    }
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, error = process.communicate(timeout=LONG_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return subprocess.CompletedProcess(arguments, process.returncode, out, error)


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which each program of tests/rank_programs.py left what its ranks told."""
    folder = tmp_path_factory.mktemp("ranks")
    outcome = ended(str(PROGRAMS), str(folder), cwd=folder)
    assert outcome.returncode == 0, outcome.stderr
    return folder


@pytest.fixture(scope="module", params=["ddp", "fsdp"])
def captures(request: pytest.FixtureRequest, programs: Path) -> list[Path]:
    """The captures of four ranks with DistributedDataParallel, and with FSDP2."""
    return captures_of(programs, request.param)


def captures_of(programs: Path, way: str) -> list[Path]:
    found = sorted((programs / "together").glob(f"{way}-rank*.xsp"))
    assert len(found) == RANKS, (programs / "together" / "statuses.json").read_text()
    return found


def test_four_ranks_run_the_same_rounds(captures: list[Path]) -> None:
    """Every rank has the same rungs in the same order, of one trace, and nothing unmatched."""
    profiles = [xsp.load(path) for path in captures]
    rungs = [prof.runs["rung"].tolist() for prof in profiles]
    assert rungs == [rungs[0]] * RANKS
    assert sorted(rungs[0]) == ["M"] * ROUNDS + ["M/L"] * ROUNDS
    assert len({prof.trace.trace_id for prof in profiles}) == 1
    assert all(prof.runs["unmatched"].sum() == 0 for prof in profiles)


def test_collectives_of_four_ranks_are_matched_one_to_one(captures: list[Path]) -> None:
    """Each collective of each round has one event on each of the four ranks, of the same type, row
    and bytes; the bytes are those of the tensors, and of gradients' reduction those of all
    parameters.
    """
    job = xsp.merge(captures)
    assert (job.size, job.missing) == (RANKS, [])
    each = job.events.groupby(["round", "number"])
    assert (each["rank"].agg(sorted).map(tuple) == tuple(range(RANKS))).all()
    assert (each[["type", "name"]].nunique() == 1).all(axis=None)
    assert (each["bytes"].nunique(dropna=False) == 1).all()
    assert (each["last"].sum() == 1).all()
    steps = job.events[job.events["rank"] == 0].groupby("round")
    sizes = {tuple(zip(step["type"], step["bytes"], strict=True)) for _, step in steps}
    assert set(job.events["dtype"]) == {"float32"}
    assert set(job.events["group"]) == {""}
    first, last = 4 * (8 * 16 + 16), 4 * (16 * 4 + 4)
    of_ddp = (("gradients", first + last), ("all_reduce", 4))
    of_fsdp = (
        *(("all_gather", size) for size in (first, last, last, first)),
        *(("reduce_scatter", size) for size in (last, first)),
        ("all_reduce", 4),
    )
    assert len(steps) == ROUNDS
    assert sizes == {of_ddp if captures[0].name.startswith("ddp") else of_fsdp}


def test_collectives_of_a_group_are_matched_among_its_ranks(programs: Path) -> None:
    """Of tensor parallelism on pairs of ranks the collectives that DTensor makes, forward and
    backward, are matched within each pair, with the bytes of the tensors and the data type; that of
    all ranks is matched among all.
    """
    job = xsp.merge(captures_of(programs, "mesh"))
    each = job.events.groupby(["round", "group", "number"])["rank"].agg(sorted).map(tuple)
    by_group = {group: set(ranks) for group, ranks in each.groupby("group")}
    assert by_group == {"": {(0, 1, 2, 3)}, "0,1": {(0, 1)}, "2,3": {(2, 3)}}
    table = job.collectives()
    output, gradient_of_input = 4 * 4 * 4, 4 * 4 * 8
    for pair in ("0,1", "2,3"):
        rows = table[table["group"] == pair]
        assert rows["type"].tolist() == ["all_reduce"] * 2
        assert rows["bytes"].tolist() == [output, gradient_of_input]
    assert set(table["dtype"]) == {"float32"}
    assert (job.events["end_ns"] > job.events["start_ns"]).all()


def test_collectives_of_several_groups_at_once_are_told_apart(programs: Path) -> None:
    """Of a mesh of two by two each collective is matched among the ranks of its group, with its
    bytes, though both dimensions are on the way together, one pair makes one more than the other,
    and two groups have all ranks. Sends within a group have the job's ranks.
    """
    job = xsp.merge(captures_of(programs, "groups"))
    table = job.collectives()
    plain, again = sorted(set(table["group"]) - {"0,1", "2,3", "0,2", "1,3"})
    assert plain == ""
    assert re.fullmatch(r":\d+", again)
    made = {
        str(group): list(zip(rows["type"], rows["bytes"].fillna(-1), strict=True))
        for group, rows in table.groupby("group")
    }
    reduced, gathered = ("all_reduce", 8), ("all_gather", 48)
    assert made == {
        "": [("all_reduce", 20)],
        again: [("all_reduce", 16)],
        "0,1": [("all_reduce", 32)],
        "2,3": [("all_reduce", 32), ("all_reduce", 12)],
        "0,2": [reduced, gathered],
        "1,3": [reduced, ("barrier", -1), gathered],
    }
    ranks_of = job.events.groupby(["round", "group", "number"])["rank"].agg(sorted)
    of_all = ("", again)
    expected = {group: [*range(RANKS)] for group in of_all}
    expected |= {group: [int(rank) for rank in group.split(",")] for group in made if "," in group}
    groups = ranks_of.index.get_level_values("group")
    assert ranks_of.tolist() == [expected[group] for group in groups]
    assert len(ranks_of) == ROUNDS * len(table)
    sends = set(zip(job.transfers()["sender"], job.transfers()["receiver"], strict=True))
    assert sends == {(0, 1), (1, 0), (2, 3), (3, 2)}
    assert "5 to 7 collectives in 6 groups a step" in str(job)


def test_waits_are_rows_that_say_what_for(programs: Path) -> None:
    """Each `Work.wait()` is a row that is called after what it waits for, and the collective ends
    with it: the time between is the program's own.
    """
    paths = captures_of(programs, "groups")
    names = xsp.load(paths[0]).tree()["name"].tolist()
    waits = [name.partition("::")[2] for name in names if "::wait" in name]
    assert waits == [
        *("wait for all_reduce_1", "wait for all_reduce"),
        *("wait for all_reduce_3", "wait for all_reduce_2"),
        *("wait for isend", "wait for irecv"),
    ]
    events = xsp.merge(paths).events
    async_op = events["name"].str.contains("all_reduce") & (events["bytes"] != 12)
    assert (events.loc[async_op, "wait_ns"] > events.loc[async_op, "call_ns"]).all()
    assert (events.loc[~async_op, "wait_ns"] == events.loc[~async_op, "end_ns"]).all()
    held_up = events["waiting_ns"] + events["moving_ns"] + events["overlapped_ns"]
    assert (held_up == events["end_ns"] - events["start_ns"]).all()


def test_distributed_torch_is_left_as_it_was(programs: Path) -> None:
    """After profiles of four ranks, functions, operators and P2POp are PyTorch's own."""
    for rank in range(RANKS):
        told = json.loads((programs / "together" / f"rank{rank}.json").read_text())
        assert told["as_before"]


def test_sends_of_a_pipeline_are_matched_with_their_receives(programs: Path) -> None:
    """Each of the four microbatches goes from stage to stage and its gradient back, with the bytes
    of both; what is computed is what is computed without xsp, as no rank waits for ever.
    """
    job = xsp.merge(captures_of(programs, "pipeline"))
    table = job.transfers()
    pairs = table.groupby(["sender", "receiver"])["number"].agg(list).to_dict()
    there_and_back = [(0, 1), (1, 2), (2, 3), (1, 0), (2, 1), (3, 2)]
    assert pairs == {pair: [0, 1, 2, 3] for pair in sorted(there_and_back)}
    assert set(table["bytes"]) == {2 * 8 * 4}
    assert set(table["dtype"]) == {"float32"}
    assert "24 sends between two ranks a step" in str(job)


def test_collectives_are_rows_of_their_own(captures: list[Path]) -> None:
    """In each rank's tree the parent of every collective is the step itself, none is below a layer
    beside it, and none has rows below it.
    """
    named = set(xsp.merge(captures).events["name"])
    for path in captures:
        tree = xsp.load(path).tree()
        rows = tree[tree["name"].isin(named)]
        assert set(rows["name"]) == named
        assert (rows["parent"] == tree.index[tree["level"] == "MODEL"][0]).all()
        assert (rows["calls"] == 1).all()
        assert not tree["parent"].isin(rows.index).any()


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("killed_in_a_step", "a collective of the program failed: another rank has ended"),
        ("killed_between_rounds", f"has ended or did not answer within {LIMIT_S} s"),
    ],
)
def test_a_rank_that_is_killed_is_an_error_of_the_three_others(
    programs: Path, program: str, said: str
) -> None:
    """Whether it is killed in a step or between rounds, the three others end in an XspError that
    says so and names it, with the limit that was set, and the process ends.
    """
    folder = programs / program
    statuses = json.loads((folder / "statuses.json").read_text())
    assert statuses == [0, 0, -signal.SIGKILL, 0]
    for rank in range(RANKS):
        if rank != KILLED:
            told: dict[str, Any] = json.loads((folder / f"rank{rank}.json").read_text())
            assert told["expected"], told
            assert f"rank {rank} was" in told["error"] or f"rank {rank} waited" in told["error"]
            assert said in told["error"]
            named = re.search(r"rank (\d+) \(process \d+ on [^)]+\) has ended", told["error"])
            assert named is not None, told["error"]
            assert int(named[1]) == KILLED


def test_ranks_of_a_script_are_profiled_and_merged(tmp_path: Path) -> None:
    """`xsp run --ranks 2 -o FOLDER` starts a script with torchrun, writes a capture of each rank
    and shows the summary of one, and the captures merge.
    """
    (tmp_path / "train.py").write_text(SCRIPT)
    short = ("--levels", "M/L", "--iterations", "2", "--warmup", "0")
    outcome = ended(
        *("-m", "xsp", "run", "--ranks", "2", *short, "-o", "out", "train.py", "30"), cwd=tmp_path
    )
    assert outcome.returncode == 0, outcome.stderr
    paths = sorted((tmp_path / "out").iterdir())
    assert [path.name for path in paths] == ["rank0.xsp", "rank1.xsp"]
    assert outcome.stderr.count("bound by ") == 1
    assert all(f"rank {rank}: capture written to" in outcome.stderr for rank in (0, 1))
    job = xsp.merge(paths)
    assert (job.size, job.missing) == (2, [])
    assert job.collectives()["type"].tolist() == ["gradients"]


@pytest.mark.parametrize(
    ("given", "own"),
    [("out", "out/rank3.xsp"), ("a/job.xsp", "a/job.rank3.xsp"), (".", "rank3.xsp")],
)
def test_no_two_ranks_write_one_file(given: str, own: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank writes into the folder that was named, or beside the file; a process that is the only
    one, or was not launched, is no rank.
    """
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    rank = launched_rank()
    assert rank == LaunchedRank(3, 4)
    assert rank.own_path(Path(given)) == Path(own)
    for variable, value in (("WORLD_SIZE", "1"), ("RANK", "")):
        monkeypatch.setenv(variable, value)
        assert launched_rank() is None
