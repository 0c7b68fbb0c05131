"""Short jobs that agents run in the tests of dispatch. Workers of Ray import this module."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HELD_FROM, AWAITED_FROM = 60, 100
"""Numbers from which jobs are held on the node that will be killed, and wait for that elsewhere."""
_PATIENCE_S = 240


def simulated(payload: Mapping[str, Any]) -> dict[str, Any]:
    """The square of `number`; or what `does` says: raise, exit, never end, give no JSON."""
    does = payload.get("does", "square")
    if does == "raise":
        raise ValueError(f"no square of {payload['number']}\nsecond line")
    if does == "exit":
        os._exit(3)
    if does == "hang":
        _hang(payload.get("noted"))
    if does == "object":
        return {"square": object()}
    return {"square": payload["number"] ** 2, "pid": os.getpid()}


def recorded(payload: Mapping[str, Any]) -> dict[str, Any]:
    """An evaluation that nobody measured, as an agent hands it over; it is held where `_hold` says
    so.
    """
    from served_evaluations import evaluation

    from xsp.evaluation.manifest.reading import manifest_from_record
    from xsp.evaluation.records.transport import as_json

    _hold(payload)
    manifest = manifest_from_record(payload["manifest"])
    return as_json(evaluation(manifest, payload["number"], 2.0))


def _hang(noted: str | None) -> None:
    """Never return; the number of the process is written to a file, if one is given."""
    if noted is not None:
        with Path(noted).open("a") as file:
            file.write(f"{os.getpid()}\n")
    threading.Event().wait()


def _hold(payload: Mapping[str, Any]) -> None:
    """On one node, the first of these jobs stays in flight until its process is ended; late jobs of
    other nodes wait until that is so.
    """
    held = Path(payload["held"])
    there = os.getppid() == payload["parent"]
    if there and payload["number"] >= HELD_FROM:
        held.write_text(str(payload["number"]))
        threading.Event().wait(_PATIENCE_S)
    if not there and payload["number"] >= AWAITED_FROM:
        pause = threading.Event()
        for _ in range(_PATIENCE_S * 20):
            if held.exists():
                return
            pause.wait(0.05)


def special() -> dict[str, str]:
    """What an agent in a test says it can run."""
    return {"torch": "2.13.0+cpu", "parent": str(os.getppid())}
