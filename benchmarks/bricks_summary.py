"""What measurements of bricks say together: the rule, how near it is, figures and a page."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from typing import Any

from bricks_choice import best_on, by_random_halves, geometric, titled
from bricks_reasons import by_device, reason_of

TRACED = "tracing changes what the model does"
"""In the note on a model whose graph is another program than the model as its user calls it."""

Ratio = Callable[[Mapping[str, Any]], float | None]

PAPER = {
    "normalised latency, geometric mean, c5.2xlarge, G = 1": 0.918,
    "normalised latency, lowest and highest": "0.829 to 0.981",
    "speed-up of benchmarking, c5.xlarge, G = 1": 4.4,
    "speed-up of benchmarking, c5.xlarge, G = 10 (read off a chart)": 3.1,
    "unique layers of 10,815": 0.14,
}
"""DLBricks, ICPE 2020, section IV: 50 MXNet models on four EC2 hosts."""


def summary(measurements: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """For every granularity and rule the geometric means of each measurement; the rule that every
    other model chooses, and how near it is on the rest. Models that are other programs while they
    are traced neither choose nor judge.
    """
    ratios = ratios_of(measurements, by_call)
    names = sorted({name for each in ratios.values() for name in each})
    others = other_programs(measurements)
    same = [name for name in names if name not in others]
    choosing, judged = same[::2], same[1::2]
    every = {titled(key): geometric(each, names) for key, each in ratios.items()}
    if not ratios:
        return {"models": 0}
    chosen = best_on(ratios, choosing)
    own = ratios[chosen]
    off = {name: round(own[name], 3) for name in names if abs(own.get(name, 1.0) - 1) > 0.1}
    tasks = tasks_of(measurements)
    return {
        "models": len(names),
        "measurements": len(measurements),
        "geometric_mean": every,
        "other_programs": others,
        "geometric_mean_of_the_rest": {
            titled(key): geometric(each, same) for key, each in ratios.items() if others
        },
        "geometric_mean_of_graphs": _geometric_means(measurements, by_graph),
        "geometric_mean_of_device_time": _geometric_means(measurements, by_device),
        "chosen": titled(chosen),
        "chosen_on": geometric(own, choosing),
        "judged_on_the_rest": geometric(own, judged),
        "random_halves": by_random_halves(ratios, same),
        "by_task": {
            each: geometric(own, [name for name in same if tasks.get(name) == each])
            for each in sorted({tasks[name] for name in same if tasks.get(name)})
        },
        "beyond_10_percent": off,
        "reasons": {name: reason_of(name, measurements, chosen, others) for name in off},
        "failures": _failures(measurements),
        "left_one_out": _left_one_out(measurements),
        "paper": PAPER,
    }


def tasks_of(measurements: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """What each model is for."""
    return {
        name: each.get("task", "")
        for models in measurements.values()
        for name, each in models.items()
    }


def _failures(measurements: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Why models have no latency in any measurement."""
    rows = [(name, each) for models in measurements.values() for name, each in models.items()]
    known = {name for name, each in rows if each["rows"]}
    return {
        name: each.get("failure") or "not all of its bricks have a time"
        for name, each in rows
        if name not in known
    }


def _left_one_out(measurements: Mapping[str, Mapping[str, Any]]) -> dict[str, float | None]:
    """Of the first measurement at G = 1: geometric mean of models constructed from the bricks of
    the others plus their own unique ones, by measured latencies and by the sums of their own times,
    and the mean share that came from others.
    """
    first = next(iter(measurements.values()), {})
    models = {name: each for name, each in _same_programs(first).items() if each.get("bricks")}
    alone = leave_one_out(models, "1") if models else {}
    ratios = {key: each["normalised"] for key, each in alone.items()}
    ratios = {key: each for key, each in ratios.items() if math.isfinite(each)}
    over_own = {key: alone[key]["over_own"] for key in ratios}
    shared = [each["shared"] for key, each in alone.items() if key in ratios]
    return {
        "geometric_mean": geometric(ratios, list(ratios)),
        "over_own": geometric(over_own, list(over_own)),
        "shared_share_of_latency": statistics.mean(shared) if shared else None,
    }


def _same_programs(models: Mapping[str, Any]) -> dict[str, Any]:
    """Models of one measurement whose bricks are of the operators that a call of them runs."""
    return {
        name: each
        for name, each in models.items()
        if not any(TRACED in note for note in each.get("notes", []))
    }


def other_programs(measurements: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Models whose bricks are of other operators than a call of them runs (a note says so): their
    constructed latency is not that of what was measured.
    """
    return sorted(
        {
            name
            for models in measurements.values()
            for name in models.keys() - _same_programs(models).keys()
        }
    )


def by_call(row: Mapping[str, Any]) -> float | None:
    """Constructed over measured latency of the model as its user calls it."""
    found: float | None = row["normalised"]
    return found


def measured_ms_of(row: Mapping[str, Any]) -> float | None:
    found: float | None = row["measured_ms"]
    return found


def unique_share(row: Mapping[str, Any]) -> float | None:
    """Of its bricks, how many are unique among them."""
    return row["unique"] / row["bricks"] if row.get("bricks") and row.get("unique") else None


def by_graph(row: Mapping[str, Any]) -> float | None:
    """The same by the latency of its operators without the Python between them."""
    found: float | None = row.get("normalised_graph")
    return found


def _geometric_means(
    measurements: Mapping[str, Mapping[str, Any]], ratio: Ratio
) -> dict[str, float | None]:
    found = ratios_of(measurements, ratio)
    return {titled(key): geometric(each, list(each)) for key, each in found.items()}


def ratios_of(
    measurements: Mapping[str, Mapping[str, Any]], ratio: Ratio
) -> dict[tuple[int, str], dict[str, float]]:
    """By granularity and rule, the median over measurements of each model's ratio."""
    found: dict[tuple[int, str], dict[str, list[float]]] = {}
    for models in measurements.values():
        for name, each in models.items():
            for row in each["rows"]:
                value = ratio(row)
                if value is not None and row["rule"] != "critical path":
                    own = found.setdefault((row["granularity"], row["rule"]), {})
                    own.setdefault(name, []).append(value)
    return {
        key: {name: statistics.median(values) for name, values in each.items()}
        for key, each in found.items()
    }


def pool_rows(measurements: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """By granularity: how many bricks the models of the first measurement have, how many of them
    are unique, and how much sooner these are run, once each, than the models are. Models that are
    other programs while they are traced do not count.

    `own_share_of_bricks` and `shared_share_of_latency` are means over models, by `leave_one_out`.
    """
    first = next(iter(measurements.values()), {})
    models = {name: each for name, each in _same_programs(first).items() if _is_known(each)}
    ways = {way for each in models.values() for way in each["bricks"]}
    ordered = sorted(ways, key=lambda way: (not way.isdigit(), int(way.rpartition(" ")[2])))
    return [_pool_row(models, way) for way in ordered]


def _is_known(model: Mapping[str, Any]) -> bool:
    """Whether the model and all of its bricks have a time; others would count as none."""
    bricks = model.get("bricks") or {}
    times = [time_ns for each in bricks.values() for _, time_ns in each.values()]
    return bool(times) and None not in times and bool(model["rows"][0]["measured_ms"])


def _pool_row(every: Mapping[str, Any], way: str) -> dict[str, Any]:
    models = {name: each for name, each in every.items() if way in each["bricks"]}
    times: dict[str, float] = {}
    for each in models.values():
        for digest, (_, time_ns) in each["bricks"][way].items():
            times.setdefault(digest, time_ns)
    counts = [count for each in models.values() for count, _ in each["bricks"][way].values()]
    whole_ms = [each["rows"][0]["measured_ms"] for each in models.values()]
    once_ms = sum(times.values()) / 1e6
    alone = leave_one_out(models, way)
    return {
        "granularity": int(way) if way.isdigit() else way,
        "models": len(models),
        "bricks": sum(counts),
        "unique": len(times),
        "unique_share": len(times) / sum(counts),
        "models_ms": sum(whole_ms),
        "bricks_ms": once_ms,
        "speedup": sum(whole_ms) / once_ms,
        "own_share_of_bricks": statistics.mean(each["own_share"] for each in alone.values()),
        "shared_share_of_latency": statistics.mean(each["shared"] for each in alone.values()),
    }


def leave_one_out(models: Mapping[str, Any], way: str) -> dict[str, dict[str, float]]:
    """Each model as a sum in which a brick that another model has counts with the time that it has
    there (the first one's): `normalised` by its measured latency, `over_own` by the sum of its own
    times. `shared` is the share of the sum that so comes from others, `own_share` that of its
    bricks which no other model has. `way` is how models are taken apart, such as "1".
    """
    found = {}
    for name, each in models.items():
        theirs: dict[str, float] = {}
        for other, one in models.items():
            if other != name:
                theirs = {**_known_times(one, way), **theirs}
        mine = each["bricks"][way]
        total = shared = own = 0.0
        for digest, (count, time_ns) in mine.items():
            total += count * theirs.get(digest, time_ns or math.nan)
            shared += count * theirs.get(digest, 0.0)
            own += count * (time_ns or math.nan)
        whole_ms = each["rows"][0]["measured_ms"] or math.nan
        found[name] = {
            "normalised": total / 1e6 / whole_ms,
            "over_own": total / own,
            "shared": shared / total,
            "own_share": sum(digest not in theirs for digest in mine) / len(mine),
        }
    return found


def _known_times(model: Mapping[str, Any], way: str) -> dict[str, float]:
    every = model["bricks"].get(way, {})
    return {digest: time_ns for digest, (_, time_ns) in every.items() if time_ns is not None}
