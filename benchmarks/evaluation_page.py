"""The table as a page, with what it shows in words; every number comes from the rows."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from evaluation_rows import BATCHED, ONLINE, POISSON, SCENARIOS, Key
from scipy import stats

from xsp.evaluation.records.evaluation import Evaluation

ByKey = Mapping[Key, Mapping[str, Evaluation]]
EAGER = "torch"
FEWEST = 3
"""Models that a sentence about them needs."""
_FACTS = ("gpu", "cpu", "cpu_count", "driver", "cuda", "torch", "python", "xsp")


def page(found: ByKey, rows: pd.DataFrame) -> str:
    """Markdown: what ran, findings, the table, and every test that is not valid."""
    parts = [
        "# Models by runtime and scenario",
        "Written from a database of evaluations by `python benchmarks/evaluation_table.py "
        "--database FILE --page PAGE`.",
        *machines(found),
        "## What it shows",
        "\n".join(f"- {sentence}" for sentence in findings(found, rows)),
        "## Table",
        markdown(rows),
        _LEGEND,
        *_not_valid(found),
    ]
    return "\n\n".join(parts) + "\n"


def as_json(found: ByKey, rows: pd.DataFrame) -> str:
    """The rows with the findings; what is unknown is null."""
    cells = json.loads(rows.to_json(orient="records"))
    content = {"machines": machines(found), "findings": list(findings(found, rows)), "rows": cells}
    return json.dumps(content, indent=1) + "\n"


def machines(found: ByKey) -> list[str]:
    """A sentence for each system, with its facts."""
    systems = {
        json.dumps({name: each.system[name] for name in _FACTS if each.system.get(name)}): each
        for scenarios in found.values()
        for each in scenarios.values()
    }
    return [
        f"Measured on {', '.join(f'{k} {v}' for k, v in json.loads(facts).items())}."
        for facts in systems
    ]


def findings(found: ByKey, rows: pd.DataFrame) -> Iterator[str]:
    """What the rows show, a sentence each."""
    yield from _counts(found, rows)
    yield from _early_stopping(found)
    for device, on_device in rows.groupby("device", sort=False):
        yield from _of_device(str(device), on_device.set_index("model"))
    yield from _beside_the_paper(rows)
    yield from _onnx_runtime(found)


def _counts(found: ByKey, rows: pd.DataFrame) -> Iterator[str]:
    for (predictor, device), some in rows.groupby(["predictor", "device"], sort=False):
        keys = [(str(model), str(predictor), str(device)) for model in some["model"]]
        whole = sum(set(SCENARIOS) <= set(found[key]) for key in keys)
        tests = [each.outcome.valid for key in keys for each in found[key].values()]
        yield (
            f"{predictor} on {device}: {_models(len(some))}, {whole} of them under all three "
            f"scenarios; {sum(tests)} of {len(tests)} tests are valid."
        )


def _models(count: int) -> str:
    return "1 model" if count == 1 else f"{count} models"


def _early_stopping(found: ByKey) -> Iterator[str]:
    online = [each[ONLINE].outcome for each in found.values() if ONLINE in each]
    if online:
        fewest = min(len(each.samples) for each in online)
        yield (
            f"Online: {fewest} queries and more; early stopping (MLPerf) discards what 99 % "
            "confidence lets it, and the p90 that it states so is in `online_p90_at_most_ms`."
        )
    poisson = [each[POISSON].outcome for each in found.values() if POISSON in each]
    if poisson:
        fewest = min(len(each.samples) for each in poisson)
        valid = sum(each.valid for each in poisson)
        shares = sorted({float(each.settings["percentile"]) for each in poisson})
        told = " or ".join(f"p{share:g}" for share in shares)
        yield (
            f"Poisson: {fewest} queries and more; in {valid} of {len(poisson)} tests early "
            f"stopping says with 99 % confidence that {told} (`poisson_held`) is within the bound, "
            "which is 20 latencies of one input (`poisson_at_most_ms`). Percentiles with an "
            "interval need more queries: where there is a dash there were too few."
        )


def _of_device(device: str, rows: pd.DataFrame) -> Iterator[str]:
    eager = rows[rows["predictor"] == EAGER]
    yield from _range_of(device, eager)
    yield from _batches(device, eager)
    yield from _waiting(eager)
    for predictor in rows["predictor"].unique():
        if predictor != EAGER:
            other = rows[rows["predictor"] == predictor]
            yield from _beside_eager(f"{predictor} on {device}", eager, other)


def _range_of(device: str, eager: pd.DataFrame) -> Iterator[str]:
    alone = eager["online_tm_ms"].dropna()
    if len(alone) < FEWEST:
        return
    yield (
        f"One input takes {EAGER} on {device} from {alone.min():.3g} ms ({alone.idxmin()}) to "
        f"{alone.max():.3g} ms ({alone.idxmax()}), {alone.median():.3g} ms in the median model."
    )
    both = eager[["weights_mb", "online_tm_ms"]].dropna()
    if len(both) >= FEWEST and both["weights_mb"].nunique() > 1:
        rank = float(stats.spearmanr(both["weights_mb"], both["online_tm_ms"]).statistic)
        yield (
            f"The size of the weights and that latency have a rank correlation (Spearman) of "
            f"{rank:.2f} over {len(both)} models."
        )


def _batches(device: str, eager: pd.DataFrame) -> Iterator[str]:
    gain = (eager["most_inputs_per_s"] * eager["online_tm_ms"] / 1e3).dropna()
    if len(gain) < FEWEST:
        return
    sizes = eager["optimal_batch"].dropna().astype(int).value_counts().sort_index()
    told = ", ".join(f"{size} ({_models(count)})" for size, count in sizes.items())
    yield (
        f"Batches bring {EAGER} on {device} {gain.median():.3g} times the inputs a second of one "
        f"after another in the median model, {gain.min():.3g} ({gain.idxmin()}) to "
        f"{gain.max():.3g} times ({gain.idxmax()}); the optimal batch is {told}."
    )


def _waiting(eager: pd.DataFrame) -> Iterator[str]:
    kept_up = eager[~eager["not_valid"].str.contains(POISSON)]
    longer = (kept_up["poisson_p90_ms"] / kept_up["online_p90_ms"]).dropna()
    if len(longer) >= FEWEST:
        yield (
            f"Under Poisson arrivals at half of that rate p90 is {longer.median():.3g} times as "
            f"long as online in the median model, {longer.min():.3g} to {longer.max():.3g} times "
            f"(the {len(longer)} models whose test is valid)."
        )


def _beside_eager(name: str, eager: pd.DataFrame, other: pd.DataFrame) -> Iterator[str]:
    for column, what, sign in (
        ("online_tm_ms", "one input after another", 1),
        ("most_inputs_per_s", "in batches", -1),
    ):
        faster = ((eager[column] / other[column]) ** sign).dropna()
        if len(faster) >= FEWEST:
            mean = float(np.exp(np.log(faster).mean()))
            yield (
                f"{name} is {mean:.3g} times as fast as {EAGER} {what} (geometric mean of "
                f"{len(faster)} models; {faster.min():.3g} for {faster.idxmin()} to "
                f"{faster.max():.3g} for {faster.idxmax()}; slower for {(faster < 1).sum()})."
            )


def _beside_the_paper(rows: pd.DataFrame) -> Iterator[str]:
    for row in rows[rows["paper"].astype(bool)].to_dict("records"):
        if row["predictor"] == EAGER and row["device"] != "cpu":
            yield (
                f"{row['model']}: {_cell(row['online_tm_ms'])} ms online and "
                f"{_cell(row['most_inputs_per_s'])} inputs a second at a batch of "
                f"{_cell(row['optimal_batch'])}; the paper's {row['paper']} (Table 2, another "
                f"framework on a V100) {row['paper_tm_ms']:g} ms and {row['paper_per_s']:g} at "
                f"{row['paper_batch']:g}."
            )


def _onnx_runtime(found: ByKey) -> Iterator[str]:
    there = {
        each.system.get("labels", {}).get("onnxruntime")
        for scenarios in found.values()
        for each in scenarios.values()
    }
    for build in sorted(filter(None, there)):
        on_gpu = "CUDAExecutionProvider" in build
        yield f"ONNX Runtime on the machine: {build}" + (
            "." if on_gpu else "; it runs nothing on a GPU, so it has no row for one."
        )


def _not_valid(found: ByKey) -> list[str]:
    lines = [
        f"- {' '.join(key)}, {scenario}: {'; '.join(each.outcome.reasons)}"
        for key, scenarios in found.items()
        for scenario, each in scenarios.items()
        if not each.outcome.valid
    ]
    return ["## Tests that are not valid", "\n".join(lines)] if lines else []


_LEGEND = (
    "`tm` is the mean without the longest and shortest fifth; `at_most` is what early stopping "
    f"states with 99 % confidence. The columns come from the scenarios {ONLINE} (online), "
    f"{BATCHED} (most inputs a second, optimal batch) and {POISSON} (Poisson). A call takes its "
    "inputs out of the host's memory and brings its outputs back there. Weights are random. "
    "`paper` is MLModelScope's Table 2, on a V100."
)


# ---- cells ----


def shown(rows: pd.DataFrame) -> pd.DataFrame:
    """The cells as text, without columns of the paper where no model is in it."""
    if not rows["paper"].astype(bool).any():
        rows = rows.drop(columns=[name for name in rows.columns if str(name).startswith("paper")])
    return rows.map(_cell)


def markdown(rows: pd.DataFrame) -> str:
    """The table as Markdown."""
    cells = shown(rows)
    lines = [list(cells.columns), ["---"] * len(cells.columns), *cells.to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    """Four digits, or all before the point; a dash for what is unknown."""
    if not isinstance(value, float):
        return str(value) or "–"
    if math.isnan(value):
        return "–"
    return f"{value:,.0f}" if value >= 1e4 else f"{value:.4g}"
