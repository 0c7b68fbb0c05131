"""The correction of a capture: costs from its rungs, and whether they can be believed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from xsp.analysis.correction.certainty import IDENTIFIED
from xsp.analysis.correction.charges import COST_LEVELS, OPERATOR_COST, Costs, Floats
from xsp.analysis.correction.closure import Closure, closure_by_rung
from xsp.analysis.correction.corrected import mostly_tracing
from xsp.analysis.correction.costs import FEW_ROUNDS, VISIBLE, fit_costs
from xsp.analysis.correction.evidence import MIN_ROUNDS, Round
from xsp.analysis.correction.recordings import Recordings, RecordingsOfParts
from xsp.analysis.correction.timeline import Timeline
from xsp.analysis.spans.rungs import spec_of
from xsp.types import LEVEL_ABBREVIATIONS, Level, Tables

MAX_REPLAYED_ROUNDS = 12
MAX_REPLAYED_EVENTS = 150_000
"""How many rounds, and how many events of them, a fit replays: more cost time and tell little. Of
the other rounds the latencies are used.
"""

MIN_REPLAYED_ROUNDS = 2

FIT_VERSION = 1
"""Raised whenever the same runs get other costs: a capture's costs of another version are not used.
"""

_MOST_NS = 1e9
"""What one event can cost: a second. More is no fit's, and sums of it would fit no integer."""

_OPERATOR_NAME = "operator_ns"
_NO_OPERATORS = ({_OPERATOR_NAME: (0.0, 0.0)}, {_OPERATOR_NAME: False})
"""Interval of a cost that nothing paid, and whether it is known."""


@dataclass(frozen=True)
class Correction:
    """What the tracers cost, how far the replay without these costs is from the unprofiled latency,
    by rung, and what the same events cost in tight loops.

    `host_closure` is likewise of the host's time from call to return, where a device worked.
    `taken` and `spread` are those of `costs.Fit`; `mostly_tracing` is, by cost, the share of the
    events of which the correction takes more than half; `unshown` are the levels whose costs are 0
    because the rungs do not show them.
    """

    costs: Costs
    closure: Mapping[str, Closure]
    spread: Floats
    tight_loops: Costs = field(default_factory=Costs)
    mostly_tracing: Mapping[str, float] = field(default_factory=dict)
    unshown: tuple[Level, ...] = ()
    host_closure: Mapping[str, Closure] = field(default_factory=dict)
    taken: tuple[float, float] = (0.0, 0.0)

    @property
    def known(self) -> bool:
        """Whether the rungs tell what all tracers together took of the host's time, or that it is
        little.
        """
        share, half = self.taken
        return half <= max(IDENTIFIED * share, VISIBLE)

    @property
    def closes(self) -> bool:
        """Whether the latency of every rung closes, which is enough for what is said of the latency
        alone: how the host's time divides does not matter to it.
        """
        return not any(closure.fails for closure in self.closure.values())

    @property
    def holds(self) -> bool:
        """Whether every rung closes and what is taken out is known: if not, corrected times are not
        used.
        """
        host_closes = not any(closure.fails for closure in self.host_closure.values())
        return self.known and self.closes and host_closes


def correction_row(correction: Correction | None) -> dict[str, Any] | None:
    """The correction as JSON-able values, for the manifest of a capture."""
    if correction is None:
        return None
    spread = correction.spread
    if not _knows_operators(correction.closure):
        # Versions that do not know of operators can then read it.
        spread = np.delete(np.delete(spread, OPERATOR_COST, 0), OPERATOR_COST, 1)
    return {
        "version": FIT_VERSION,
        "costs": _told(correction.costs, correction.closure),
        "spread": spread.tolist(),
        "closure": _closure_rows(correction.closure),
        "tight_loops": _cost_row(correction.tight_loops),
        "mostly_tracing": dict(correction.mostly_tracing),
        "unshown": [level.name for level in correction.unshown],
        "host_closure": _closure_rows(correction.host_closure),
        "taken": list(correction.taken),
    }


_KEYS = frozenset(
    {"costs", "spread", "closure", "tight_loops"}
    | {"mostly_tracing", "unshown", "host_closure", "taken"}
)


def _cost_row(costs: Costs) -> dict[str, Any]:
    row = asdict(costs)
    row["intervals"] = {name: list(pair) for name, pair in costs.intervals.items()}
    return row


def _closure_rows(closures: Mapping[str, Closure]) -> dict[str, Any]:
    return {rung: {**asdict(one), "by_round": list(one.by_round)} for rung, one in closures.items()}


def is_current(row: Mapping[str, Any]) -> bool:
    """Whether this row of a manifest, which has kept its rules, is what `correction_row` gives of a
    fit of this version: complete, and with costs that a replay can take out.
    """
    if row.get("version") != FIT_VERSION or _KEYS - row.keys():
        return False
    costs = row["costs"]
    named = (costs.keys(), costs["intervals"].keys(), costs["identified"].keys())
    needed = [name for name in COST_LEVELS if name != _OPERATOR_NAME]
    if _knows_operators(row["closure"]):
        needed.append(_OPERATOR_NAME)
    if not all(set(needed) <= names for names in named):
        return False
    ns = np.array([[costs[name], *costs["intervals"][name]] for name in needed])
    others = np.concatenate([np.ravel(row["spread"]), row["taken"]])
    return bool((np.abs(ns) <= _MOST_NS).all() and np.isfinite(others).all())


def _knows_operators(rungs: Iterable[str]) -> bool:
    # A manifest can have any text for a rung.
    return any(LEVEL_ABBREVIATIONS[Level.OP] in rung.split("/") for rung in rungs)


def _told(costs: Costs, rungs: Iterable[str]) -> dict[str, Any]:
    """The costs, that of operators only where these were traced."""
    row = _cost_row(costs)
    if not _knows_operators(rungs):
        for part in (row, row["intervals"], row["identified"]):
            part.pop(_OPERATOR_NAME, None)
    return row


AnyRecordings = Recordings | RecordingsOfParts


def correction_of(
    row: Mapping[str, Any] | None, tables: Tables, recordings: AnyRecordings | None = None
) -> Correction | None:
    """The inverse of `correction_row`. What another version fitted, or nobody did, is fitted again,
    by `recordings` or else by those in `tables`.
    """
    if row is None:
        return None
    loops = Costs(**row.get("tight_loops", {}))
    if not is_current(row):
        return fitted(tables, loops, recordings)
    told, spread = row["costs"], np.array(row["spread"])
    intervals = {name: tuple(pair) for name, pair in told["intervals"].items()}
    intervals, identified = _NO_OPERATORS[0] | intervals, _NO_OPERATORS[1] | told["identified"]
    if len(spread) < len(COST_LEVELS):
        spread = np.insert(np.insert(spread, OPERATOR_COST, 0.0, 0), OPERATOR_COST, 0.0, 1)
    return Correction(
        Costs(**{**told, "intervals": intervals, "identified": identified}),
        _closures_of(row["closure"]),
        spread,
        loops,
        row["mostly_tracing"],
        tuple(Level[name] for name in row["unshown"]),
        _closures_of(row["host_closure"]),
        tuple(row["taken"]),
    )


def _closures_of(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Closure]:
    return {
        rung: Closure(**{**one, "by_round": tuple(one["by_round"])}) for rung, one in rows.items()
    }


def fitted(
    tables: Tables, tight_loops: Costs | None = None, recordings: AnyRecordings | None = None
) -> Correction | None:
    """Costs and cross-validated closure; None where there are too few complete rounds or only rung
    M.

    `tight_loops` is kept beside the costs and does not enter them.
    """
    rounds = _rounds(tables, recordings or Recordings(tables))
    if len(rounds) <= MIN_ROUNDS or len(rounds[0].latency_ns) < 2:
        return None
    fit = fit_costs(rounds)
    evidence = fit.problem.evidence
    some = evidence.some(FEW_ROUNDS).timelines
    host = closure_by_rung(fit, 1) if evidence.measured.shape[2] > 1 else {}
    return Correction(
        costs=fit.costs,
        closure={rung.name: found for rung, found in closure_by_rung(fit).items()},
        spread=fit.spread,
        tight_loops=tight_loops or Costs(),
        mostly_tracing=mostly_tracing(some, fit.costs),
        unshown=fit.unshown,
        host_closure={rung.name: found for rung, found in host.items()},
        taken=fit.taken,
    )


def _rounds(tables: Tables, recordings: AnyRecordings) -> list[Round]:
    """One Round per round of the ladder that has all rungs and lost no records: the costs would
    make up for these.

    Latencies are means over the model calls of a run. Some of the rounds have timelines, spread
    evenly.
    """
    runs, calls = tables["runs"], len(tables["calls"])
    rungs = runs["rung"].nunique()
    complete = [
        mine
        for _, mine in runs.groupby("round")
        if mine["rung"].nunique() == rungs and not mine["lost"].any()
    ]
    timelines = _some_timelines(complete, recordings)
    latencies, host_latencies = (
        _means_by_rung(runs, column, calls) for column in ("latency_ns", "host_latency_ns")
    )
    return [
        Round(
            tuple(one for run in mine["run"] for one in timelines.get(int(run), ())),
            latencies[int(mine["round"].iloc[0])],
            host_latencies[int(mine["round"].iloc[0])],
        )
        for mine in complete
    ]


def _means_by_rung(runs: pd.DataFrame, column: str, calls: int) -> dict[int, dict[Any, float]]:
    """By round."""
    means = runs.groupby(["round", "rung"])[column].mean().reset_index()
    found: dict[int, dict[Any, float]] = {}
    for number, rung, value in means.itertuples(index=False, name=None):
        found.setdefault(int(number), {})[spec_of(str(rung))] = float(value) / calls
    return found


def _some_timelines(
    rounds: list[pd.DataFrame], recordings: AnyRecordings
) -> dict[int, list[Timeline]]:
    """Timelines of the deepest runs of as many rounds as are to be replayed."""
    deepest = set(recordings.runs)
    events = sum(recordings.events_of(run) for run in deepest) / max(len(deepest), 1)
    affordable = int(MAX_REPLAYED_EVENTS / max(events, 1.0))
    wanted = min(max(affordable, MIN_REPLAYED_ROUNDS), MAX_REPLAYED_ROUNDS, len(rounds))
    places = np.linspace(0, len(rounds) - 1, wanted).round().astype(np.int64)
    chosen = {int(run) for place in places for run in rounds[place]["run"]} & deepest
    found: dict[int, list[Timeline]] = {}
    for call in recordings.calls(chosen):
        found.setdefault(call.run, []).append(call.timeline)
    return found
