"""Dispatch to a real Ray cluster of two nodes on this machine, one of which is killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from typing import Any

import pytest
import ray_cluster

pytestmark = pytest.mark.timeout(290)


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `ray_cluster.py` saw: one cluster for all tests of this file."""
    pytest.importorskip("ray", reason='Ray is missing (pip install "xsp[ray]")')
    path = tmp_path_factory.mktemp("ray") / "seen.json"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, ray_cluster.__file__, str(path)]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    assert ran.returncode == 0, ran.stderr[-4000:]
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_agents_register_with_what_they_can_run(seen: dict[str, Any]) -> None:
    """An agent for each node offers its resources and labels, and jobs go where they can run."""
    mixed = seen["mixed"]
    offers = {offer["labels"]["system"]: offer for offer in mixed["summary"]["agents"]}
    assert set(offers) == {"one", "two"}
    assert (offers["two"]["resources"]["fast"], offers["two"]["resources"]["CPU"]) == (2, 1)
    agents = {answer["job"]["key"]: answer["agent"] for answer in mixed["answers"]}
    assert agents["one"] == offers["one"]["agent"]
    assert {agents[key] for key in ("fast", "0", "4")} == {offers["two"]["agent"]}


def test_what_changes_latencies_in_a_worker_is_set_and_kept(seen: dict[str, Any]) -> None:
    """Workers run at niceness 0 with as many threads as CPUs of their own, and every answer says
    so.
    """
    workers = [answer["worker"] for answer in seen["mixed"]["answers"] if answer["worker"]]
    assert {(each["niceness"], each["omp_num_threads"]) for each in workers} == {(0, "1")}
    assert len({each["node"] for each in workers}) == 2
    assert seen["mixed"]["summary"]["notes"] == []


def test_ranks_are_merged_on_two_nodes(seen: dict[str, Any]) -> None:
    """Captures that tasks on both nodes read say the same, number by number, as read here."""
    merged = seen["merged"]
    assert merged["nodes"] == 2
    assert merged["there"] == merged["here"]
    assert "6 of 6 ranks" in merged["here"][0]
    assert "rank 5 holds the others up" in merged["here"][0]


def test_requirements_that_no_node_meets_are_refused(seen: dict[str, Any]) -> None:
    """Ray would let the job wait for ever; the sentence names the requirement and the agents."""
    assert "need 1 GPU; the agents are" in seen["refused"]
    assert seen["refused"].count("(GPU 0)") == 2


def test_a_job_that_ends_its_process_is_a_row(seen: dict[str, Any]) -> None:
    """Its agent is replaced, three times; a job that raises needs no new agent; the others are
    done.
    """
    mixed = seen["mixed"]
    failed = [answer for answer in mixed["answers"] if answer["result"] is None]
    errors = {answer["job"]["key"]: answer["error"] for answer in failed}
    assert set(errors) == {"exits", "hangs", "raises"}
    assert "went away 3 times" in errors["exits"]
    assert errors["raises"].startswith("ValueError: no square of 0")
    summary = mixed["summary"]
    assert (summary["done"], summary["failed"], len(summary["lost"])) == (7, 3, 3)


def test_a_job_that_never_ends_is_ended_at_its_limit(seen: dict[str, Any]) -> None:
    """It ran once, its process is gone, its answer says why, and the agent in its place does what
    only that node can do; no job is answered twice.
    """
    mixed = seen["mixed"]
    keys = Counter(answer["job"]["key"] for answer in mixed["answers"])
    assert set(keys.values()) == {1}
    answers = {answer["job"]["key"]: answer for answer in mixed["answers"]}
    hung, after = answers["hangs"], answers["one"]
    assert (hung["result"], hung["attempts"]) == (None, 1)
    assert hung["error"] == "the job was ended after its time limit of 15 s, with its process"
    assert len(mixed["hung"]) == 1
    assert mixed["orphans"] == []
    assert after["result"]["square"] == 1
    assert after["agent"] == hung["agent"]
    assert after["worker"]["pid"] not in mixed["hung"]


def test_the_cluster_listens_on_the_loopback_interface_alone(seen: dict[str, Any]) -> None:
    """No process of it can be reached from another machine."""
    assert len(seen["sockets"]) >= 4
    assert set(seen["sockets"]) == {"127.0.0.1"}


def test_evaluations_run_on_both_nodes(seen: dict[str, Any]) -> None:
    """`xsp evaluate --ray ADDRESS` spreads the scenarios of a manifest over two nodes; each is one
    valid evaluation in the database.
    """
    rows = seen["evaluated"]
    assert [row["scenario"] for row in rows] == ["single_stream", "offline"]
    assert [row["error"] for row in rows] == [None, None]
    assert all(row["valid"] and row["evaluation"] for row in rows)
    assert len({row["node"] for row in rows}) == 2


def test_two_hundred_evaluations_outlive_a_node(seen: dict[str, Any]) -> None:
    """One node of two is killed in the middle: the database has 200 evaluations, each once, with
    the job that asked for it. The one that was in flight there is run again, no other is, and
    the node's worker does not go on.
    """
    killed = seen["killed"]
    answers = killed["answers"]
    assert set(Counter(answer["job"]["key"] for answer in answers).values()) == {1}
    numbers = {answer["job"]["payload"]["number"]: answer["result"] for answer in answers}
    ids = [f"{number:016x}" for number in range(200)]
    assert [numbers[number]["id"] for number in range(200)] == ids
    assert sorted(killed["rows"]["evaluations"]) == ids
    assert killed["rows"]["of_jobs"] == ids
    assert killed["rows"]["unfinished"] == 0
    assert len(killed["summary"]["lost"]) == 1
    assert len({answer["worker"]["node"] for answer in answers}) == 2
    again = [answer["job"]["payload"]["number"] for answer in answers if answer["attempts"] > 1]
    assert again == [killed["held"]]
    assert killed["workers"]
    assert killed["orphans"] == []
