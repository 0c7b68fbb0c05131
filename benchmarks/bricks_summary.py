"""What measurements of bricks say together: the rule, how near it is, figures and a page."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

TRACED = "tracing changes what the model does"
"""In the note on a model whose graph is another program than the model as its user calls it."""

Ratio = Callable[[Mapping[str, Any]], float | None]

BEGIN, END = "<!-- figures of {} -->", "<!-- end of figures -->"
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
    ratios = _ratios(measurements, _normalised)
    names = sorted({name for each in ratios.values() for name in each})
    others = other_programs(measurements)
    same = [name for name in names if name not in others]
    choosing, judged = same[::2], same[1::2]
    every = {_key(key): _geometric(each, names) for key, each in ratios.items()}
    chosen = min(
        ratios,
        key=lambda key: abs(math.log(_geometric(ratios[key], choosing) or 1e9)),
        default=None,
    )
    if chosen is None:
        return {"models": 0}
    own = ratios[chosen]
    off = {name: round(own[name], 3) for name in names if abs(own.get(name, 1.0) - 1) > 0.1}
    return {
        "models": len(names),
        "measurements": len(measurements),
        "geometric_mean": every,
        "other_programs": others,
        "geometric_mean_of_the_rest": {
            _key(key): _geometric(each, same) for key, each in ratios.items() if others
        },
        "geometric_mean_of_graphs": _geometric_means(measurements, _by_graph),
        "geometric_mean_of_device_time": _geometric_means(measurements, _by_device),
        "chosen": _key(chosen),
        "chosen_on": _geometric(own, choosing),
        "judged_on_the_rest": _geometric(own, judged),
        "beyond_10_percent": off,
        "left_one_out": _left_one_out(measurements),
        "paper": PAPER,
    }


def _left_one_out(measurements: Mapping[str, Mapping[str, Any]]) -> dict[str, float | None]:
    """Of the first measurement at G = 1: geometric mean of models constructed from the bricks of
    the others plus their own unique ones, and the mean share that came from others.
    """
    first = next(iter(measurements.values()), {})
    models = {name: each for name, each in first.items() if each.get("bricks")}
    alone = leave_one_out(models, 1) if models else {}
    ratios = {key: each["normalised"] for key, each in alone.items()}
    ratios = {key: each for key, each in ratios.items() if math.isfinite(each)}
    shared = [each["shared"] for key, each in alone.items() if key in ratios]
    return {
        "geometric_mean": _geometric(ratios, list(ratios)),
        "shared_share_of_latency": statistics.mean(shared) if shared else None,
    }


def other_programs(measurements: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Models whose bricks are of other operators than a call of them runs (a note says so): their
    constructed latency is not that of what was measured.
    """
    return sorted(
        {
            name
            for models in measurements.values()
            for name, each in models.items()
            if any(TRACED in note for note in each.get("notes", []))
        }
    )


def _normalised(row: Mapping[str, Any]) -> float | None:
    """Constructed over measured latency of the model as its user calls it."""
    found: float | None = row["normalised"]
    return found


def _by_graph(row: Mapping[str, Any]) -> float | None:
    """The same by the latency of its operators without the Python between them."""
    found: float | None = row.get("normalised_graph")
    return found


def _by_device(row: Mapping[str, Any]) -> float | None:
    """How long the operations of its bricks keep the GPU, over how long the model's own do."""
    bricks_ms, model_ms = row.get("constructed_device_ms"), row.get("device_ms")
    return bricks_ms / model_ms if bricks_ms and model_ms else None


def _geometric_means(
    measurements: Mapping[str, Mapping[str, Any]], ratio: Ratio
) -> dict[str, float | None]:
    found = _ratios(measurements, ratio)
    return {_key(key): _geometric(each, list(each)) for key, each in found.items()}


def _ratios(
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


def _geometric(ratios: Mapping[str, float], names: Sequence[str]) -> float | None:
    logs = [math.log(ratios[name]) for name in names if name in ratios]
    return math.exp(sum(logs) / len(logs)) if logs else None


def _key(key: tuple[int, str]) -> str:
    return f"G = {key[0]}, {key[1]}"


def pool_rows(measurements: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """By granularity: how many bricks the models of the first measurement have, how many of them
    are unique, and how much sooner these are run, once each, than the models are.

    `own_share_of_bricks` and `shared_share_of_latency` are means over models, by `leave_one_out`.
    """
    first = next(iter(measurements.values()), {})
    models = {name: each for name, each in first.items() if each.get("bricks")}
    granularities = sorted({int(key) for each in models.values() for key in each["bricks"]})
    return [_pool_row(models, granularity) for granularity in granularities]


def _pool_row(models: Mapping[str, Any], granularity: int) -> dict[str, Any]:
    times: dict[str, float | None] = {}
    for each in models.values():
        for digest, (_, time_ns) in each["bricks"][str(granularity)].items():
            times.setdefault(digest, time_ns)
    counts = [
        count for each in models.values() for count, _ in each["bricks"][str(granularity)].values()
    ]
    whole_ms = [each["rows"][0]["measured_ms"] for each in models.values()]
    is_known = None not in times.values() and None not in whole_ms
    once_ms = sum(each or 0.0 for each in times.values()) / 1e6
    alone = leave_one_out(models, granularity)
    return {
        "granularity": granularity,
        "models": len(models),
        "bricks": sum(counts),
        "unique": len(times),
        "unique_share": len(times) / sum(counts),
        "models_ms": sum(whole_ms) if is_known else None,
        "bricks_ms": once_ms if is_known else None,
        "speedup": sum(whole_ms) / once_ms if is_known else None,
        "own_share_of_bricks": statistics.mean(each["own_share"] for each in alone.values()),
        "shared_share_of_latency": statistics.mean(each["shared"] for each in alone.values()),
    }


def leave_one_out(models: Mapping[str, Any], granularity: int) -> dict[str, dict[str, float]]:
    """Each model as a sum in which a brick that another model has counts with the time that it has
    there (the first one's): `normalised` by its measured latency. `shared` is the share of the sum
    that so comes from others, `own_share` that of its bricks which no other model has.
    """
    found = {}
    for name, each in models.items():
        theirs: dict[str, float] = {}
        for other, one in models.items():
            if other != name:
                theirs = {**_known_times(one, granularity), **theirs}
        mine = each["bricks"][str(granularity)]
        total = shared = 0.0
        for digest, (count, time_ns) in mine.items():
            total += count * theirs.get(digest, time_ns or math.nan)
            shared += count * theirs.get(digest, 0.0)
        whole_ms = each["rows"][0]["measured_ms"] or math.nan
        found[name] = {
            "normalised": total / 1e6 / whole_ms,
            "shared": shared / total,
            "own_share": sum(digest not in theirs for digest in mine) / len(mine),
        }
    return found


def _known_times(model: Mapping[str, Any], granularity: int) -> dict[str, float]:
    every = model["bricks"][str(granularity)]
    return {digest: time_ns for digest, (_, time_ns) in every.items() if time_ns is not None}


def draw(kept: Mapping[str, Any], path: Path) -> None:
    """The paper's figures from the last measurement."""
    import pandas as pd

    from xsp.brickwork import figures

    last = list(kept["measurements"].values())[-1]
    models = pd.DataFrame([row for each in last.values() for row in each["rows"]])
    drawn = [figures.normalised(models), figures.speedup(pd.DataFrame(kept["pool"]))]
    parts = [
        each.to_html(full_html=False, include_plotlyjs=place == 0)
        for place, each in enumerate(drawn)
    ]
    path.write_text("<!doctype html><meta charset=utf-8>" + "".join(parts))


def write_page(output: Path, page: Path) -> None:
    """Put the figures of a JSON into a page of the documentation, between the marks that name the
    file.
    """
    text = page.read_text()
    mark = BEGIN.format(output.stem)
    begin = text.index(mark) + len(mark)
    end = text.index(END, begin)
    page.write_text(f"{text[:begin]}\n{_figures(json.loads(output.read_text()))}\n{text[end:]}")


def _figures(kept: Mapping[str, Any]) -> str:
    found = summary(kept["measurements"])
    machine = kept["machine"]
    name = machine.get("gpu") or machine.get("cpu")
    that = " that tracing does not change" if found["other_programs"] else ""
    lines = [
        f"{found['models']} models on {name}, torch {machine['torch']}, by {kept['clock']} time, "
        f"{found['measurements']} measurement(s) of {kept['rounds']} rounds or more; geometric "
        "means of constructed over measured:",
        "",
        *_means(found),
        "",
        *_others(found),
        f"Chosen on every other model{that}: {found['chosen']} ({found['chosen_on']:.3f} there, "
        f"{found['judged_on_the_rest']:.3f} on the rest).",
        "",
        *_pool(kept["pool"]),
        "",
        *_models(kept["measurements"], found["chosen"]),
    ]
    off = ", ".join(f"{name} {ratio:.2f}" for name, ratio in found["beyond_10_percent"].items())
    lines += ["", f"Beyond 10 % by that rule: {off}." if off else "No model is beyond 10 %."]
    return "\n".join(lines)


def _means(found: Mapping[str, Any]) -> list[str]:
    columns = {
        "of the model called": found["geometric_mean"],
        "of those that tracing does not change": found["geometric_mean_of_the_rest"],
        "of its graph": found["geometric_mean_of_graphs"],
        "of the GPU's time": found["geometric_mean_of_device_time"],
    }
    return _table("granularity, rule", columns, list(found["geometric_mean"]))


def _table(
    first: str, columns: Mapping[str, Mapping[str, float | None]], keys: Sequence[str]
) -> list[str]:
    """Rows by key; a column in which nothing is known is left out."""
    shown = {title: each for title, each in columns.items() if any(each.values())}
    head = " | ".join([first, *shown])
    rows = [" | ".join([key, *(_number(each.get(key)) for each in shown.values())]) for key in keys]
    return [f"| {head} |", "|---" * (1 + len(shown)) + "|", *(f"| {row} |" for row in rows)]


def _others(found: Mapping[str, Any]) -> list[str]:
    names = ", ".join(found["other_programs"])
    return [f"Tracing changes what these models do: {names}.", ""] if names else []


def _pool(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return [
        "| granularity | bricks | unique | unique share | speed-up |",
        "|---|---|---|---|---|",
        *(
            f"| {row['granularity']} | {row['bricks']} | {row['unique']} | "
            f"{row['unique_share']:.1%} | {row['speedup']:.2f} |"
            for row in rows
            if row["speedup"] is not None
        ),
    ]


def _models(measurements: Mapping[str, Mapping[str, Any]], rule: str) -> list[str]:
    """Each model by one rule: medians over measurements."""
    ratios = {
        "measured, ms": _measured_ms,
        "constructed over it": _normalised,
        "over its graph": _by_graph,
        "over the GPU's time": _by_device,
    }
    columns = {
        title: {_key(key): each for key, each in _ratios(measurements, ratio).items()}.get(rule, {})
        for title, ratio in ratios.items()
    }
    return _table(f"model, by {rule}", columns, list(columns["measured, ms"]))


def _measured_ms(row: Mapping[str, Any]) -> float | None:
    found: float | None = row["measured_ms"]
    return found


def _number(value: float | None) -> str:
    """Empty for what is not known."""
    return "" if value is None else f"{value:.3f}"
