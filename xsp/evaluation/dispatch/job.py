"""What is handed to agents, and what comes back: jobs and their answers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Requirements = Mapping[str, float | str]
"""What an agent must have: a number is the least amount of a resource (`GPU`, `CPU`, `memory` in
bytes, or one of the cluster's own), a text is a label's value, or a constraint on a version such as
">=2.5" (PEP 440)."""


@dataclass(frozen=True)
class Job:
    """One evaluation to run: `payload` (JSON) is what the agent is given, `key` is unique. It is
    ended after `time_limit_s`, where there is one, with the process that it runs in. Jobs that are
    `alike` cost less one after another on one agent, such as those that share a model.
    """

    key: str
    payload: Mapping[str, Any]
    requirements: Requirements = field(default_factory=dict)
    time_limit_s: float | None = None
    alike: str = ""


@dataclass(frozen=True)
class Answer:
    """What became of a job: its `result` (JSON), or the `error` that it ended with.

    `attempts` counts how often it was handed to an agent, `agent` names the last one, and `worker`
    has the facts of its process that change latencies: niceness, threads, CPUs.
    """

    job: Job
    result: Mapping[str, Any] | None
    error: str
    attempts: int
    agent: str
    worker: Mapping[str, Any]

    @property
    def failed(self) -> bool:
        """Whether there is an error in place of a result."""
        return self.result is None


def job_key(*parts: Any) -> str:
    """SHA-256 (hexadecimal) of what tells a job from others, as canonical JSON."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
