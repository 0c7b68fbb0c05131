"""Evaluate two small models on two Ray nodes of this machine, by `xsp evaluate --ray`.

    pip install "xsp[evaluation,ray]" scikit-learn
    python examples/evaluate_on_ray.py --output ray-output

Starts a Ray of two nodes, which only this machine reaches, trains the networks of evaluate.py,
evaluates every combination of model, runtime and scenario on the agents, and prints which node ran
what, out of the database. Takes about two minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import evaluate as example
import pandas as pd

from xsp.database.store import Store
from xsp.evaluation.dispatch.ray_session import settings
from xsp.evaluation.records.jobs import jobs
from xsp.evaluation.records.reading import evaluations

PREDICTORS = ("torch", "torchscript")
SCENARIOS = ("{kind: single_stream, queries: 64}", "{kind: offline, samples: 256, batch: 32}")


def two_nodes() -> Any:
    """A Ray of two nodes with a CPU each; it is set up by the environment when it is imported."""
    os.environ.update(settings())
    from ray.cluster_utils import Cluster

    node: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 80_000_000}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    cluster.add_node(**node)
    return cluster


def evaluated(
    address: str, manifests: list[Path], folder: Path, predictors: Sequence[str] = PREDICTORS
) -> pd.DataFrame:
    """Run `xsp evaluate --ray` and read from its database a row for each job: what it was, the node
    that ran it, its evaluation or error.
    """
    database = folder / "evaluations.sqlite"
    command = [sys.executable, "-m", "xsp", "evaluate", *map(str, manifests), "--ray", address]
    command += [part for name in predictors for part in ("--predictor", name)]
    command += [part for settings in SCENARIOS for part in ("--scenario", settings)]
    command += ["--database", str(database), "--artifacts", str(folder / "artifacts")]
    subprocess.run([*command, "--allow-code", "--job-limit", "240"], check=True)  # noqa: S603 - own arguments
    with Store(database) as store:
        found = jobs(store).merge(
            evaluations(store), left_on="evaluation", right_on="id", how="left"
        )
    found["node"] = [json.loads(worker or "{}").get("node", "")[:8] for worker in found["worker"]]
    return found[["model", "predictor", "scenario", "node", "valid", "evaluation", "error"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("ray-output"))
    parser.add_argument("--epochs", type=int, default=4)
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    folder = given.output.resolve()
    manifests = [example.write_manifest(folder, name, given.epochs) for name in ("cnn", "mlp")]
    cluster = two_nodes()
    try:
        found = evaluated(cluster.address, manifests, folder)
    finally:
        cluster.shutdown()
    print(found.drop(columns="error").to_string(index=False))


if __name__ == "__main__":
    main()
