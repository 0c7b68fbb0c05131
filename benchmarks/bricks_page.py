"""What measurements of bricks say, as figures and as a section of a page."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bricks_choice import SPLITS, titled
from bricks_reasons import by_device
from bricks_summary import (
    PAPER,
    by_call,
    by_graph,
    measured_ms_of,
    ratios_of,
    summary,
    unique_share,
)

BEGIN, END = "<!-- figures of {} -->", "<!-- end of figures -->"
SUM, REPLAY = "sum", "replay"
_RARE = 0.01
"""Rules that are chosen less often are not named."""
_UNIQUE, _FASTER = "unique layers of 10,815", "speed-up of benchmarking, c5.xlarge, G = 1"
_NEAR = "normalised latency, geometric mean, c5.2xlarge, G = 1"


def draw(kept: Mapping[str, Any], path: Path) -> None:
    """The paper's figures from the last measurement."""
    import pandas as pd

    from xsp.brickwork import figures

    last = list(kept["measurements"].values())[-1]
    models = pd.DataFrame([row for each in last.values() for row in each["rows"]])
    pool = [row for row in kept["pool"] if isinstance(row["granularity"], int)]
    drawn = [figures.normalised(models), figures.speedup(pd.DataFrame(pool))]
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
    # Made when the bricks lay beside; files that are older than it have none.
    found["left_one_out"] = kept["summary"].get("left_one_out", {})
    machine = kept["machine"]
    name = machine.get("gpu") or machine.get("cpu")
    that = " that tracing does not change" if found["other_programs"] else ""
    lines = [
        f"{found['models']} models on {name}, torch {machine['torch']}, by {kept['clock']} time, "
        f"{found['measurements']} measurement(s) of {kept['rounds']} rounds or more; geometric "
        "means of constructed over measured:",
        *_shares(kept["measurements"]),
        "",
        *_means(found),
        "",
        *_others(found),
        f"Chosen on every other model{that}: {found['chosen']} ({found['chosen_on']:.3f} there, "
        f"{found['judged_on_the_rest']:.3f} on the rest).",
        "",
        *_halves(found["random_halves"]),
        *_tasks(found),
        *_pool(kept["pool"], found),
        "",
        *_left_out(found),
        *_models(kept["measurements"], found["chosen"]),
    ]
    return "\n".join([*lines, "", *_beyond(found), *_failures(found)])


def _shares(measurements: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """How quiet the machine was."""
    every = [each.get("cpu_share") for models in measurements.values() for each in models.values()]
    known = [share for share in every if share is not None]
    if not known:
        return []
    return [
        f"(this program had its CPU for {statistics.median(known):.0%} of the time, and for "
        f"{min(known):.0%} at least)"
    ]


def _halves(found: Mapping[str, Any]) -> list[str]:
    """How much of this is luck of the split."""
    if not found:
        return []
    low, quarter, middle, most, high = found["percentiles_5_25_50_75_95"]
    rules = [f"{rule} {share:.0%}" for rule, share in found["chosen"].items() if share >= _RARE]
    return [
        f"Were the halves drawn at random ({SPLITS} times), the other half would say {middle:.3f} "
        f"(half of the draws {quarter:.3f} to {most:.3f}, nine in ten {low:.3f} to {high:.3f}); "
        f"{found['within_5_percent']:.0%} of the draws are within 5 %. Chosen: {', '.join(rules)}.",
        "",
    ]


def _tasks(found: Mapping[str, Any]) -> list[str]:
    """Geometric means by what models are for."""
    if len(found["by_task"]) < 2:
        return []
    each = ", ".join(f"{name} {_number(ratio)}" for name, ratio in found["by_task"].items())
    return [f"By task: {each}.", ""]


def _left_out(found: Mapping[str, Any]) -> list[str]:
    alone = found["left_one_out"]
    if not alone.get("over_own"):
        return []
    return [
        f"Each model from the bricks of the others and its own unique ones, sums at G = 1: "
        f"{alone['over_own']:.3f} of the sum of its own, {alone['geometric_mean']:.3f} of its "
        f"latency; {alone['shared_share_of_latency']:.0%} was measured in other models.",
        "",
    ]


def _beyond(found: Mapping[str, Any]) -> list[str]:
    if not found["beyond_10_percent"]:
        return ["No model is beyond 10 %."]
    rows = [
        f"- {name} {ratio:.2f}: {found['reasons'][name]}."
        for name, ratio in found["beyond_10_percent"].items()
    ]
    return ["Beyond 10 % by that rule, and where the difference is:", "", *rows]


def _failures(found: Mapping[str, Any]) -> list[str]:
    if not found["failures"]:
        return []
    rows = [f"- {name}: {why}" for name, why in found["failures"].items()]
    return ["", "Without a latency:", "", *rows]


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


def _pool(rows: Sequence[Mapping[str, Any]], found: Mapping[str, Any]) -> list[str]:
    """Speed-up of benchmarking, and how near latencies of those bricks are: sums, or on a GPU the
    replay.
    """
    # Older files count models that tracing changes, too.
    counts_all = all(row["models"] == found["models"] for row in rows)
    means = found["geometric_mean" if counts_all else "geometric_mean_of_the_rest"]
    rule = REPLAY if any(each.endswith(REPLAY) for each in means) else SUM
    head = (
        f"granularity | models | bricks | unique | unique share | speed-up | {rule} over measured"
    )
    lines = [f"| {head} |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        if row["speedup"] is not None:
            near = _number(means.get(_rule_of(row["granularity"], rule)))
            lines.append(
                f"| {row['granularity']} | {row['models']} | {row['bricks']} | {row['unique']} | "
                f"{row['unique_share']:.1%} | {row['speedup']:.2f} | {near} |"
            )
    paper = f"{PAPER[_UNIQUE]:.0%} | {PAPER[_FASTER]} | {PAPER[_NEAR]}"
    return [*lines, f"| 1, the paper (on a CPU) | 50 | 10815 | | {paper} |"]


def _rule_of(way: Any, rule: str) -> str:
    """A rule for the bricks of a way to take models apart, such as 1 or "modules, 1"."""
    modules, _, granularity = str(way).rpartition(", ")
    return titled((int(granularity), f"{modules}, {rule}" if modules else rule))


def _models(measurements: Mapping[str, Mapping[str, Any]], rule: str) -> list[str]:
    """Each model by one rule: medians over measurements."""
    ratios = {
        "measured, ms": measured_ms_of,
        "constructed over it": by_call,
        "over its graph": by_graph,
        "over the GPU's time": by_device,
        "unique bricks": unique_share,
    }
    columns = {
        title: {titled(key): each for key, each in ratios_of(measurements, ratio).items()}.get(
            rule, {}
        )
        for title, ratio in ratios.items()
    }
    return _table(f"model, by {rule}", columns, list(columns["measured, ms"]))


def _number(value: float | None) -> str:
    """Empty for what is not known."""
    return "" if value is None else f"{value:.3f}"
