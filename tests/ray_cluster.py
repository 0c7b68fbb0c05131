"""A program that starts a Ray cluster of two nodes on this machine, dispatches to it, kills a node,
and writes what it saw as JSON to the file it is given. Ray is set up when it is imported, so this
has a process of its own.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

from captures import gpu_capture
from dispatched_jobs import recorded, simulated, special
from evaluated_models import manifest_text

import xsp
from xsp.capture.file import Capture
from xsp.database.store import Store
from xsp.errors import DispatchError
from xsp.evaluation.dispatch.job import Answer, Job, job_key
from xsp.evaluation.dispatch.ray_agents import Ray
from xsp.evaluation.dispatch.ray_session import settings
from xsp.evaluation.dispatch.running import run_jobs
from xsp.evaluation.manifest.reading import manifest_of
from xsp.evaluation.records import jobs as records
from xsp.evaluation.records.reading import evaluations
from xsp.types import Level

KILLED_AFTER = 80
ALL_REDUCE = 3
"""The kernel of the bundled capture that becomes one."""
_PATIENCE_S = 240


def main(path: Path) -> None:
    os.environ.update(settings())
    import ray
    from ray.cluster_utils import Cluster

    small: dict[str, Any] = {
        "num_cpus": 1,
        "object_store_memory": 80_000_000,
        "include_log_monitor": False,
    }
    head = {**small, "include_dashboard": False, "no_monitor": True, "labels": {"system": "one"}}
    cluster: Any = Cluster(initialize_head=True, head_node_args=head)
    second = cluster.add_node(**small, resources={"fast": 2}, labels={"system": "two"})
    ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    try:
        found = {
            "sockets": listening_addresses(),
            "mixed": mixed(path.with_name("hung")),
            "refused": refused(),
            "merged": merged(path.parent),
            "evaluated": evaluated(cluster.address, path.parent),
            "killed": killed(second.all_processes["raylet"][0].process, path.with_name("held")),
        }
    finally:
        ray.shutdown()
        cluster.shutdown()
    path.write_text(json.dumps(found))


def merged(folder: Path) -> dict[str, Any]:
    """The captures of six ranks, read by tasks on both nodes, and in this process."""
    import ray

    paths = [folder / f"rank{rank}.xsp" for rank in range(6)]
    for rank, path in enumerate(paths):
        of_rank(rank, len(paths)).save(path)
    nodes: set[str] = set()

    def spread(read: Any, values: Any) -> Any:
        def task(value: str) -> tuple[Any, str]:
            return read(value), ray.get_runtime_context().get_node_id()

        remote = ray.remote(task).options(scheduling_strategy="SPREAD")
        for part, node in ray.get([remote.remote(value) for value in values]):
            nodes.add(node)
            yield part

    jobs = {"there": xsp.merge(paths, map=spread), "here": xsp.merge(paths)}
    told = {name: [str(job), job.events.to_json()] for name, job in jobs.items()}
    return {"nodes": len(nodes), **told}


def of_rank(rank: int, size: int) -> Capture:
    """A capture with an all-reduce to which each rank comes 10 µs later than the one before."""
    place = {"rank": rank, "size": size, "host": "a", "boot": "b"}
    capture = gpu_capture(rank=place)
    kernels, spans = capture.tables["kernels"].copy(), capture.tables["spans"].copy()
    kernels.loc[ALL_REDUCE, "name"] = "ncclDevKernel_AllReduce_Sum_f32_RING_LL"
    mine = (spans["level"] == Level.KERNEL) & (spans["detail"] == ALL_REDUCE)
    spans.loc[mine, "start_ns"] += 10_000 * rank
    return Capture(capture.meta, {**capture.tables, "kernels": kernels, "spans": spans})


def evaluated(address: str, folder: Path) -> list[dict[str, Any]]:
    """What `xsp evaluate --ray` leaves in its database, as the example runs it."""
    sys.path.append(str(Path(__file__).parents[1] / "examples"))
    import evaluate
    import evaluate_on_ray

    manifest = evaluate.write_manifest(folder, "mlp", epochs=1)
    rows = evaluate_on_ray.evaluated(address, [manifest], folder, ["torch"])
    found: list[dict[str, Any]] = json.loads(rows.to_json(orient="records"))
    return found


def mixed(noted: Path) -> dict[str, Any]:
    """Jobs for either node, one that raises, one that ends its process, one that never ends, whose
    processes are `hung`; `orphans` are those that go on.
    """
    endless = {"number": 0, "does": "hang", "noted": str(noted)}
    jobs = [
        Job("hangs", endless, {"system": "one"}, time_limit_s=15.0),
        Job("one", {"number": 1}, {"system": "one", "torch": ">=2.5"}),
        Job("fast", {"number": 2}, {"fast": 2}),
        Job("exits", {"number": 0, "does": "exit"}, {"system": "two"}),
        Job("raises", {"number": 0, "does": "raise"}),
        *(Job(str(number), {"number": number}, {"system": "two"}) for number in range(5)),
    ]
    found = dispatched(jobs)
    hung = [int(line) for line in noted.read_text().split()]
    return {**found, "hung": hung, "orphans": still_running(set(hung))}


def refused() -> str:
    try:
        dispatched([Job("gpu", {"number": 1}, {"GPU": 1})])
    except DispatchError as error:
        return str(error)
    return ""


def killed(raylet: Any, held: Path) -> dict[str, Any]:
    """Two hundred evaluations for a database, during which a node is killed while one is in flight
    there; `orphans` are its workers that go on, `rows` what the database has of them at the end.
    """
    workers: set[int] = set()
    store = Store(held.with_name("killed.sqlite"))

    def watch(answers: list[Answer]) -> None:
        records.finish(store, answers[-1])
        if len(answers) >= KILLED_AFTER and held.exists() and not workers:
            workers.update(children(raylet.pid))
            os.kill(raylet.pid, signal.SIGKILL)
            raylet.wait(_PATIENCE_S)

    manifest = manifest_of(manifest_text().encode(), "digits.yaml").canonical()
    payload = {"manifest": manifest, "parent": raylet.pid, "held": str(held)}
    jobs = [Job(job_key(number), {**payload, "number": number}) for number in range(200)]
    records.add_jobs(store, "killed", jobs)
    found = dispatched(jobs, watch, recorded)
    with store:
        rows = {
            "evaluations": evaluations(store)["id"].tolist(),
            "of_jobs": records.jobs(store, "killed")["evaluation"].tolist(),
            "unfinished": len(records.unfinished(store, "killed")),
        }
    agents = {answer["worker"]["pid"] for answer in found["answers"]} & workers
    return {
        **found,
        "rows": rows,
        "workers": sorted(agents),
        "orphans": still_running(agents),
        "held": int(held.read_text()),
    }


def dispatched(jobs: list[Job], watch: Any = None, run: Any = simulated) -> dict[str, Any]:
    answers: list[Answer] = []

    def write(answer: Answer) -> None:
        answers.append(answer)
        if watch is not None:
            watch(answers)

    summary = run_jobs(jobs, run, write, Ray(describe=special))
    return {"summary": asdict(summary), "answers": [asdict(answer) for answer in answers]}


# ---- what /proc tells ----


def listening_addresses() -> list[str]:
    """Addresses on which processes of this cluster listen; IPv4 within IPv6 is as IPv4."""
    ours = {inode for pid in processes() for inode in sockets(pid)}
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            parts = line.split()
            if parts[3] == "0A" and parts[9] in ours:
                word = parts[1].partition(":")[0][-8:]
                found.append(".".join(map(str, bytes.fromhex(word)[::-1])))
    return found


def processes() -> list[int]:
    """Processes that have this cluster's token in their environment, and this one."""
    token = f"RAY_AUTH_TOKEN={settings()['RAY_AUTH_TOKEN']}".encode()
    found = [os.getpid()]
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes()
        except OSError:
            continue
        if token in environment:
            found.append(int(folder.name))
    return found


def sockets(pid: int) -> set[str]:
    """Inodes of a process's sockets."""
    found = set()
    for link in Path(f"/proc/{pid}/fd").glob("*"):
        try:
            target = os.readlink(link)
        except OSError:
            continue
        if target.startswith("socket:["):
            found.add(target[len("socket:[") : -1])
    return found


def children(parent: int) -> set[int]:
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        fields = status(int(folder.name))
        if fields and int(fields[1]) == parent:
            found.add(int(folder.name))
    return found


def still_running(pids: set[int]) -> list[int]:
    """Those that are still there, and no zombies, after a while."""
    pause = threading.Event()
    for _ in range(_PATIENCE_S * 10):
        there = [pid for pid in pids if (status(pid) or ["Z"])[0] != "Z"]
        if not there:
            return []
        pause.wait(0.1)
    return there


def status(pid: int) -> list[str]:
    """State, parent and more; empty for a process that is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return []
    return text.rpartition(")")[2].split()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
