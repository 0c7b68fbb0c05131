"""Dispatch: every job gets one row, whatever becomes of jobs, agents and the dispatcher."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pynvml
import pytest
from dispatched_jobs import simulated
from hypothesis import given
from hypothesis import strategies as st

from xsp.errors import DispatchError
from xsp.evaluation.dispatch.agents import Ended, Event, Joined, Lost, Offer, Run
from xsp.evaluation.dispatch.child import Child
from xsp.evaluation.dispatch.embedded import Embedded
from xsp.evaluation.dispatch.job import Answer, Job, job_key
from xsp.evaluation.dispatch.requirements import unmet
from xsp.evaluation.dispatch.running import ATTEMPTS, run_jobs


def jobs(count: int, **more: Any) -> list[Job]:
    return [Job(job_key(number), {"number": number, **more}) for number in range(count)]


class Simulated:
    """Agents without processes. `fates` says, call by call, whether a call ends ("ends"), its agent
    goes away for good ("dies"), or goes away and another joins ("replaced").
    """

    def __init__(self, agents: int, fates: Sequence[str]) -> None:
        self._offers = [Offer(f"agent-{number}") for number in range(agents)]
        self._fates = list(fates)
        self._flying: dict[str, Mapping[str, Any]] = {}
        self._joining: list[Offer] = []
        self.most = 0
        self.closed = False

    def register(self, run: Run) -> Sequence[Offer]:
        self._run = run
        return self._offers

    def replace(self, agent: str) -> None:
        raise AssertionError(f"{agent} was replaced, and nothing has a limit")

    def submit(self, agent: str, payload: Mapping[str, Any]) -> None:
        assert agent not in self._flying, "two calls in flight for one agent"
        self._flying[agent] = payload
        self.most = max(self.most, len(self._flying))

    def wait(self) -> Sequence[Event]:
        if self._joining:
            return [Joined(self._joining.pop())]
        agent, payload = self._flying.popitem()
        fate = self._fates.pop(0) if self._fates else "ends"
        if fate == "ends":
            return [Ended(agent, dict(self._run(payload)), "", {"niceness": 0})]
        if fate == "replaced":
            self._joining.append(Offer(agent))
        return [Lost(agent, "its node was switched off")]

    def waiting_for_agents(self) -> bool:
        return bool(self._joining)

    def close(self) -> None:
        self.closed = True


class Overdue(Simulated):
    """One agent that never answers the job 1, while a second of a simulated clock passes with each
    look.
    """

    def __init__(self) -> None:
        super().__init__(1, [])
        self.now = 0.0
        self.replaced: list[int] = []

    def wait(self) -> Sequence[Event]:
        self.now += 1.0
        if any(payload["number"] == 1 for payload in self._flying.values()):
            return []
        return super().wait()

    def replace(self, agent: str) -> None:
        self.replaced.append(self._flying.pop(agent)["number"])
        self._joining.append(Offer(agent))


# ---- one process ----


def test_every_job_has_its_row_also_one_that_fails() -> None:
    """A job that raises, or gives what is no JSON, is a row with its error in one line; the others
    are not touched by it.
    """
    rows: list[Answer] = []
    odd = [
        Job("a", {"number": 7, "does": "raise"}),
        Job("b", {"number": 7, "does": "object"}),
    ]
    summary = run_jobs([*odd, *jobs(3)], simulated, rows.append)
    assert (summary.done, summary.failed, summary.complete) == (3, 2, True)
    by_key = {row.job.key: row for row in rows}
    assert by_key["a"].failed
    assert by_key["a"].error.startswith("ValueError: no square of 7 second line (dispatched_jobs")
    assert "not JSON serializable" in by_key["b"].error
    squares = {row.job.payload["number"]: row.result for row in rows if row.result is not None}
    assert {number: result["square"] for number, result in squares.items()} == {0: 0, 1: 1, 2: 4}
    assert rows[0].worker["pid"] == os.getpid()
    assert rows[0].worker["niceness"] == os.getpriority(os.PRIO_PROCESS, 0)


def test_a_job_given_twice_or_written_before_is_not_run() -> None:
    """Keys are unique: what has its row is passed over, and counted."""
    rows: list[Answer] = []
    every = jobs(6)
    done = {job.key for job in every[:2]}
    summary = run_jobs([*every, *every], simulated, rows.append, written=done)
    assert [row.job.payload["number"] for row in rows] == [2, 3, 4, 5]
    assert (summary.kept, summary.done) == (2, 4)


def test_a_killed_dispatcher_resumes_from_what_it_wrote(tmp_path: Path) -> None:
    """A dispatcher killed in the middle of a job loses that job alone, and runs none again."""
    rows = tmp_path / "rows"
    program = f"""
import os, signal, sys
from dispatched_jobs import simulated
from xsp.evaluation.dispatch.job import Job
from xsp.evaluation.dispatch.running import run_jobs

rows = open({str(rows)!r}, "a+", buffering=1)
rows.seek(0)
written = rows.read().split()
die = not written

def run(payload):
    if die and payload["number"] == 11:
        os.kill(os.getpid(), signal.SIGKILL)
    return simulated(payload)

run_jobs(
    [Job(str(number), {{"number": number}}) for number in range(20)],
    run,
    lambda answer: rows.write(answer.job.key + "\\n"),
    written=written,
)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    first = subprocess.run([sys.executable, "-c", program], env=environment, timeout=240)
    assert first.returncode == -9
    assert rows.read_text().split() == [str(number) for number in range(11)]
    subprocess.run([sys.executable, "-c", program], env=environment, timeout=240, check=True)
    assert rows.read_text().split() == [str(number) for number in range(20)]


def test_a_row_that_cannot_be_written_ends_the_dispatch() -> None:
    """What the writer raises reaches the caller, and the agents are ended."""
    agents = Simulated(2, [])

    def full(_answer: Answer) -> None:
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space left"):
        run_jobs(jobs(4), simulated, full, agents)
    assert agents.closed


def test_a_stopped_dispatch_leaves_the_rest_for_the_next() -> None:
    """Jobs in flight get their rows, the others are told as remaining."""
    rows: list[Answer] = []
    summary = run_jobs(jobs(9), simulated, rows.append, stop=lambda: len(rows) >= 4)
    assert len(rows) == 4
    assert len(summary.remaining) == 5
    assert "5 jobs were not run" in str(summary)


def test_a_job_that_takes_too_long_is_ended_and_is_a_row() -> None:
    """After its time limit, by the clock, its agent is replaced and the job is a row with that
    error, not run again; the others are done.
    """
    agents = Overdue()
    rows: list[Any] = []
    limited = [Job(str(number), {"number": number}, {}, 5.0) for number in range(4)]
    summary = run_jobs(limited, simulated, rows.append, agents, clock=lambda: agents.now)
    assert (summary.done, summary.failed, summary.lost) == (3, 1, ())
    (failed,) = (row for row in rows if row.failed)
    assert failed.job.key == "1"
    assert failed.error == "the job was ended after its time limit of 5 s, with its process"
    assert failed.attempts == 1
    assert agents.replaced == [1]


def test_a_child_that_hangs_is_killed_after_the_time_limit() -> None:
    """The agent of this machine is a new process for the jobs after it."""
    rows: list[Answer] = []
    hangs = Job("hangs", {"number": 0, "does": "hang"}, {}, 0.001)
    run_jobs([hangs, *jobs(2)], simulated, rows.append, Child())
    assert [row.failed for row in rows] == [True, False, False]
    assert "time limit of 0.001 s" in rows[0].error
    assert multiprocessing.active_children() == []


# ---- requirements ----


@pytest.mark.parametrize(
    ("requirements", "lacking"),
    [
        ({}, ()),
        ({"GPU": 1}, ()),
        ({"GPU": 3}, ("GPU",)),
        ({"TPU": 1}, ("TPU",)),
        ({"torch": ">=2.5,<3"}, ()),
        ({"torch": ">=2.14"}, ("torch",)),
        ({"torch": "2.13.0+cu130"}, ()),
        ({"torch": ">=two"}, ("torch",)),
        ({"gpu": "NVIDIA H200", "GPU": 2, "zone": "b"}, ("zone",)),
        ({"gpu": ">=1"}, ("gpu",)),
    ],
)
def test_requirements_are_amounts_labels_and_versions(
    requirements: dict[str, Any], lacking: tuple[str, ...]
) -> None:
    """Numbers are least amounts, texts are labels or constraints on versions; what cannot be read
    as a version fits no constraint.
    """
    offer = Offer("a", {"GPU": 2.0}, {"torch": "2.13.0+cu130", "gpu": "NVIDIA H200", "zone": "a"})
    assert unmet(offer, requirements) == lacking


def test_what_no_agent_can_run_is_refused_before_anything_is_started() -> None:
    """One sentence names the requirement and the agents; no job is run."""
    rows: list[Answer] = []
    impossible = Job("x", {"number": 1}, {"GPU": 2, "onnxruntime": ">=9"})
    agents = Embedded({"GPU": 0.0}, {"onnxruntime": "1.32.0"})
    with pytest.raises(DispatchError) as refused:
        run_jobs([*jobs(3), impossible], simulated, rows.append, agents)
    sentence = str(refused.value)
    assert "no agent can run 1 of the jobs, which need 2 GPU and onnxruntime >=9" in sentence
    assert "here (GPU 0, onnxruntime 1.32.0)" in sentence
    assert rows == []


def test_a_cluster_that_does_not_answer_is_refused_at_once() -> None:
    """One sentence with the address, where Ray would try for minutes."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        program = (
            "from xsp.evaluation.dispatch.ray_agents import Ray\n"
            "from xsp.errors import DispatchError\n"
            f"try: Ray({address!r}).register(print)\n"
            "except DispatchError as error: print(error)\n"
        )
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-c", program]
        said = subprocess.run(
            command, env=environment, timeout=240, check=True, capture_output=True, text=True
        )
    assert f"nothing answers at {address}" in said.stdout


# ---- agents that go away ----


@given(
    fates=st.lists(st.sampled_from(["ends", "dies", "replaced"]), max_size=40),
    agents=st.integers(1, 5),
    count=st.integers(0, 25),
)
def test_no_job_is_lost_or_written_twice_whichever_agents_go(
    fates: list[str], agents: int, count: int
) -> None:
    """Each job has one row or is told as remaining, which it is only where no agent is left; an
    agent has one call in flight.
    """
    rows: list[Answer] = []
    where = Simulated(agents, fates)
    summary = run_jobs(jobs(count), simulated, rows.append, where)
    keys = [row.job.key for row in rows] + [job.key for job in summary.remaining]
    assert Counter(keys) == Counter(job.key for job in jobs(count))
    assert all(row.attempts <= ATTEMPTS for row in rows)
    assert all(row.attempts == ATTEMPTS for row in rows if row.failed)
    assert where.most <= agents
    assert where.closed
    if summary.remaining:
        assert len(summary.lost) >= agents


def test_a_job_that_takes_its_agents_along_is_given_up() -> None:
    """After three agents it is a row with that error; the others are run."""
    rows: list[Answer] = []
    summary = run_jobs(jobs(2), simulated, rows.append, Simulated(1, ["replaced"] * 3))
    assert [row.failed for row in rows] == [True, False]
    assert "went away 3 times" in rows[0].error
    assert "switched off" in rows[0].error
    assert len(summary.lost) == 3


def test_what_few_agents_can_run_is_not_kept_waiting() -> None:
    """An agent with a GPU takes the jobs that need it first."""
    rows: list[Answer] = []
    plain = jobs(4)
    special = Job("gpu", {"number": 9}, {"GPU": 1})
    run_jobs([*plain, special], simulated, rows.append, Embedded({"GPU": 1.0}))
    assert {row.job.key for row in rows} == {"gpu", *(job.key for job in plain)}

    class TwoAgents(Simulated):
        def register(self, run: Run) -> Sequence[Offer]:
            self._run = run
            return [Offer("plain"), Offer("special", {"GPU": 1.0})]

    handed: list[tuple[str, str]] = []
    run_jobs(
        [*plain, special],
        simulated,
        rows.append,
        TwoAgents(2, []),
        started=lambda job, agent: handed.append((job.key, agent)),
    )
    assert ("gpu", "special") in handed[:2]


def test_jobs_that_share_a_model_stay_with_an_agent() -> None:
    """Two agents divide four models of three scenarios each: no model is on both, and all have
    their rows.
    """
    rows: list[Answer] = []
    every = [
        Job(f"{model}{number}", {"number": number}, alike=model)
        for model in "abcd"
        for number in range(3)
    ]

    class InTurn(Simulated):
        """The job that was handed out first ends first."""

        def wait(self) -> Sequence[Event]:
            agent = next(iter(self._flying))
            return [Ended(agent, dict(self._run(self._flying.pop(agent))), "", {"niceness": 0})]

    run_jobs(every, simulated, rows.append, InTurn(2, []))
    agents = {(row.job.alike, row.agent) for row in rows}
    assert len(rows) == 12
    assert len(agents) == 4
    assert {agent for _, agent in agents} == {"agent-0", "agent-1"}


def test_keys_do_not_depend_on_the_order_of_a_mapping() -> None:
    """The same parts give the same key; others another."""
    assert job_key({"a": 1, "b": [2]}) == job_key(json.loads('{"b": [2], "a": 1}'))
    assert job_key("a", "b") != job_key("ab", "")


def test_a_job_that_ends_a_child_process_leaves_this_one_alone() -> None:
    """The agent of this machine can be a process of its own: it is started again for the other
    jobs, and ends with the dispatch.
    """
    rows: list[Answer] = []
    bad = Job("exits", {"number": 0, "does": "exit"})
    summary = run_jobs([bad, *jobs(3)], simulated, rows.append, Child())
    assert [row.failed for row in rows] == [True, False, False, False]
    assert "went away 3 times" in rows[0].error
    assert "exit code 3" in rows[0].error
    assert (summary.done, len(summary.lost)) == (3, 3)
    assert multiprocessing.active_children() == []
    assert os.getpid() not in {row.worker["pid"] for row in rows[1:]}


@pytest.mark.parametrize(("visible", "usable"), [(None, 2), ("1", 1), ("", 0), ("0,1,2", 2)])
def test_this_machine_offers_its_visible_gpus_and_its_memory(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, usable: int
) -> None:
    """A job for a GPU runs here where NVML counts one that CUDA_VISIBLE_DEVICES does not hide; what
    the machine has no memory for is refused.
    """
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    for agents in (Embedded(), Child()):
        offered = agents.offer
        assert unmet(offered, {"GPU": usable, "memory": 2**20}) == ()
        assert unmet(offered, {"GPU": usable + 1, "memory": 2.0**60}) == ("GPU", "memory")
