"""What is true of the process that a job runs in, where it changes latencies; and running a job
there so that nothing it does reaches the dispatcher.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import traceback
from collections.abc import Mapping
from importlib import metadata
from typing import Any

from xsp.evaluation.dispatch.agents import Offer, Run
from xsp.machine.gpu_state import visible_gpus

FRAMEWORKS = ("torch", "onnxruntime", "onnxruntime-gpu", "xsp")
"""Packages whose versions an agent registers as labels, where they are installed."""


def facts() -> dict[str, Any]:
    """Process id, host, niceness, OMP_NUM_THREADS (None if unset) and number of CPUs allowed."""
    return {
        "pid": os.getpid(),
        "host": platform.node(),
        "niceness": os.getpriority(os.PRIO_PROCESS, 0),
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
        "cpus": len(os.sched_getaffinity(0)),
    }


def resources() -> dict[str, float]:
    """What this machine has for jobs: CPU (those that this process may use), GPU (visible ones),
    memory (bytes).
    """
    return {
        "CPU": float(len(os.sched_getaffinity(0))),
        "GPU": float(visible_gpus()),
        "memory": float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")),
    }


def labels() -> dict[str, str]:
    """What this process can run: host, python and the versions of frameworks, without importing
    them.
    """
    found = {"host": platform.node(), "python": ".".join(map(str, sys.version_info[:3]))}
    for package in FRAMEWORKS:
        try:
            # Build tags such as +cu130 stay: they tell what a version can do.
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def offer(agent: str, more: Mapping[str, float] | None, told: Mapping[str, str] | None) -> Offer:
    """What an agent on this machine registers with: `resources` and `labels`, with `more` resources
    and labels that are `told` beside or in place of these.
    """
    return Offer(agent, {**resources(), **(more or {})}, {**labels(), **(told or {})})


def answered(run: Run, payload: Mapping[str, Any]) -> tuple[str | None, str, dict[str, Any]]:
    """The result as JSON, or None and the error in one line with where it was raised; and `facts`.

    What is raised to end the process (KeyboardInterrupt, SystemExit) is not caught.
    """
    try:
        return json.dumps(run(payload)), "", facts()
    except Exception as error:
        return None, _told(error), facts()


def _told(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({os.path.basename(frames[-1].filename)}:{frames[-1].lineno})" if frames else ""
    said = " ".join(str(error).split())
    return f"{type(error).__name__}: {said}{where}" if said else f"{type(error).__name__}{where}"
