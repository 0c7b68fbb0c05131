"""Closure of kept captures: as recorded, after plain subtraction, and replayed, against the
unprofiled latency.

    python benchmarks/closure.py FOLDER [--json out.json]

The costs are fitted anew, on this machine, from the captures in FOLDER
(`fidelity.py --captures FOLDER`).
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import xsp
from xsp.analysis.correction import correction_row, fitted
from xsp.analysis.correction.charges import COST_LEVELS
from xsp.analysis.spans.statistics import trimmed
from xsp.capture import file as capture


def percent(value: float) -> float:
    return round(100 * float(value), 3)


def relative(difference: Any, unprofiled: Any) -> list[float]:
    """Trimmed mean of differences within rounds and half its 95 % interval, in % of the mean
    unprofiled latency.

    The mean of ratios of two latencies that scatter would be above the ratio of their means.
    """
    mean, half = (float(each) for each in trimmed(difference))
    whole = float(trimmed(unprofiled)[0])
    return [percent(mean / whole), percent(half / whole)]


def closure(prof: xsp.Profile) -> dict[str, Any]:
    """Error in % of the unprofiled latency, trimmed mean and half width of the 95 % interval."""
    by_rung = prof.runs.pivot_table(index="round", columns="rung", values="latency_ns")
    unprofiled, deepest = by_rung["M"], max(by_rung.columns, key=len)
    events = event_counts(prof)
    costs = prof.costs.set_index("kind")["cost_ns"]
    subtracted = by_rung[deepest] - sum(
        costs.get(kind, 0.0) * count for kind, count in events.items()
    )
    found = prof.closure_error
    return {
        "unprofiled_ms": round(prof.latency_ms, 4),
        "unprofiled_half_width_percent": percent(prof.latency_ci_ms / prof.latency_ms),
        "rounds": len(by_rung),
        "as_recorded_percent": relative(by_rung[deepest] - unprofiled, unprofiled),
        "subtraction_percent": relative(subtracted - unprofiled, unprofiled),
        "replay_percent": {
            rung: [percent(row.error), percent(row.low), percent(row.high)]
            for rung, row in found.iterrows()
        },
        "costs_ns": prof.costs.set_index("kind")["cost_ns"].round().astype(int).to_dict(),
        "identified": prof.costs.loc[prof.costs["identified"], "kind"].tolist(),
    }


def event_counts(prof: xsp.Profile) -> dict[str, float]:
    """Host events by kind in one run of the deepest rung."""
    runs = prof.runs.loc[prof.runs["deepest"] == "KERNEL", "run"]
    spans, api = prof.spans, prof.table("api_calls")
    mine = spans[spans["run"].isin(runs)]
    layers = prof.table("layers")["kind"].to_numpy()[mine.loc[mine["level"] == "LAYER", "detail"]]
    launched = mine.loc[mine["level"] == "KERNEL", ["run", "correlation_id"]].drop_duplicates()
    launches, every = len(launched), int(api["run"].isin(runs).sum())
    totals = {
        "layer": (~np.isin(layers, ["function", "autograd"])).sum(),
        "functional": (layers == "function").sum(),
        "backward": (layers == "autograd").sum(),
        "library": (mine["level"] == "LIBRARY").sum(),
        "launch": launches,
        "api": every - launches,
    }
    assert {f"{kind}_ns" for kind in totals} | {"kernel_ns"} == set(COST_LEVELS)
    return {kind: float(total) / len(runs) for kind, total in totals.items()}


def fitted_anew(path: Path) -> xsp.Profile:
    """The profile in a capture, with costs of this version's fit."""
    kept = capture.load(path)
    return xsp.Profile(
        replace(kept, meta=kept.meta | {"correction": correction_row(fitted(kept.tables))})
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    report: dict[str, Any] = {"environment": {}, "programs": {}}
    for path in sorted(arguments.folder.glob("*.xsp")):
        prof = fitted_anew(path)
        report["environment"] = prof.environment
        report["programs"][path.stem] = closure(prof)
        print(json.dumps({path.stem: report["programs"][path.stem]}), flush=True)
        if arguments.json:
            arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
