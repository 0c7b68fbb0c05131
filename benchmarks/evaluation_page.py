"""The table as a page, with the paper's beside it; every number comes from the rows."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import pandas as pd
from evaluation_findings import LEGEND, ByKey, findings
from evaluation_paper import ROWS

_FACTS = (
    *("gpu", "cpu", "cpu_count", "driver", "cuda", "torch", "python", "xsp"),
    *("allow_tf32", "cudnn_allow_tf32"),
)


def summary(found: ByKey, rows: pd.DataFrame) -> dict[str, Any]:
    """What the page says, as JSON has it: sentences, and the rows, in which null is unknown."""
    return {
        "machines": machines(found),
        "how": how(found, rows),
        "findings": list(findings(found, rows)),
        "not_valid": _not_valid(found),
        "rows": json.loads(rows.to_json(orient="records")),
    }


def page(said: Mapping[str, Any]) -> str:
    """A summary as Markdown."""
    rows = pd.DataFrame(said["rows"])
    not_valid = ["## Tests that are not valid", _listed(said["not_valid"])]
    parts = [
        "# Models by runtime and scenario",
        "MLModelScope's table (Dakkak et al., CLOUD 2020, Table 2) for PyTorch, written from a "
        "database of [evaluations](evaluation.md) by one command, `python "
        "benchmarks/evaluation_table.py --database FILE --page PAGE --json FILE`.",
        *said["machines"],
        *said["how"],
        "## What it shows",
        _listed(said["findings"]),
        *beside_the_paper(rows),
        "## Every model",
        _table(pd.DataFrame([_line(row) for row in rows.to_dict("records")])),
        LEGEND,
        *(not_valid if said["not_valid"] else []),
    ]
    return "\n\n".join(parts) + "\n"


def _listed(sentences: list[str]) -> str:
    return "\n".join(f"- {sentence}" for sentence in sentences)


def machines(found: ByKey) -> list[str]:
    """A sentence for each system, with its facts."""
    systems = {
        json.dumps({name: each.system[name] for name in _FACTS if name in each.system}): each
        for scenarios in found.values()
        for each in scenarios.values()
    }
    return [
        f"Measured on {', '.join(f'{k} {v}' for k, v in json.loads(facts).items())}."
        for facts in systems
    ]


def how(found: ByKey, rows: pd.DataFrame) -> list[str]:
    """How models were made ready, where that is recorded, and what was compiled."""
    each = [one for scenarios in found.values() for one in scenarios.values()]
    together = {str(one.system.get("labels", {}).get("made_ready_together", "0")) for one in each}
    sizes = {size for one in each for size in one.outcome.details.get("made_ready", [])}
    said = []
    if sizes:
        listed = ", ".join(map(str, sorted(sizes)))
        said.append(
            f"Up to {max(map(int, together))} models were loaded at the same time, each in a "
            f"process of its own, and called with batches of {listed}; then they were measured one "
            "after the other, while the other processes did nothing."
        )
    if (rows["predictor"] == "torch-compile").any():
        said.append(
            "torch-compile is torch.compile with its defaults, which make two graphs of a model: "
            "one for a batch of 1, and one for all others, whose batch may vary. They were "
            "compiled beside those of other models, and so were Triton's choices timed."
        )
    return [" ".join(said)] if said else []


def beside_the_paper(rows: pd.DataFrame) -> list[str]:
    """The paper's rows with ours, by runtime, as Markdown; no part where no model is in it."""
    ours = rows[rows["paper"].astype(bool) & (rows["device"] != "cpu")]
    if ours.empty:
        return []
    columns = {"online_tm_ms": "ms", "online_p90_ms": "p90 ms", "most_inputs_per_s": "inputs/s"}
    columns["optimal_batch"] = "batch"
    lines = []
    for row in ROWS:
        line = {"paper's model": row.name, "ms": row.tm_ms, "p90 ms": row.p90_ms}
        line |= {"inputs/s": row.per_s, "batch": float(row.batch)}
        for mine in ours[ours["paper"] == row.name].to_dict("records"):
            line["ours"] = mine["model"]
            for column, what in columns.items():
                line[f"{mine['predictor']} {what}"] = mine[column]
        lines.append(line)
    text = pd.DataFrame(lines).fillna({"ours": ""}).map(_cell)
    return ["## The paper's Table 2, and ours", _table(text), _SAME_NETWORKS]


def _not_valid(found: ByKey) -> list[str]:
    return [
        f"{' '.join(key)}, {scenario}: {'; '.join(each.outcome.reasons)}"
        for key, scenarios in found.items()
        for scenario, each in scenarios.items()
        if not each.outcome.valid
    ]


_SAME_NETWORKS = (
    "The first columns are the paper's: TensorFlow 1 on a V100, one input and the best batch. Ours "
    "have the same layers, but their own padding, and in ResNet v1 (here v1.5) and v2 their own "
    "strides or image sizes; `googlenet` has normalisation, as Inception v1 has. Where there are "
    "dashes we have no such model, or no time was left for it."
)


# ---- cells ----


def _line(row: Mapping[Any, Any]) -> dict[str, str]:
    """A model on a runtime; intervals stand in brackets behind their values."""
    return {
        "model": row["model"],
        "runtime": row["predictor"] + (" (CPU)" if row["device"] == "cpu" else ""),
        "weights MB": _cell(row["weights_mb"]),
        "ms": _cell(row["online_tm_ms"]),
        "p90 ms": _cell(row["online_p90_ms"]),
        "p90 at most": _cell(row["online_p90_at_most_ms"]),
        "inputs/s": _between(row, "most_inputs{}_per_s"),
        "batch": _cell(row["optimal_batch"]),
        "Poisson load": _cell(row["poisson_load"]),
        "call ms": _cell(row["poisson_call_ms"]),
        "Poisson p50 ms": _between(row, "poisson_p50{}_ms"),
        "Poisson p90 ms": _between(row, "poisson_p90{}_ms"),
        "held": _cell(row["poisson_held"]),
        "not valid": _cell(row["not_valid"]),
        "doubtful": _cell(row["doubtful"]),
    }


def _between(row: Mapping[Any, Any], name: str) -> str:
    """A value and its interval; the name has `{}` where `_low` and `_high` stand."""
    value, low, high = (_cell(row[name.format(end)]) for end in ("", "_low", "_high"))
    return value if "–" in (low, high) else f"{value} [{low}, {high}]"


def shown(rows: pd.DataFrame) -> pd.DataFrame:
    """The cells as text, without columns of the paper where no model is in it."""
    if not rows["paper"].astype(bool).any():
        rows = rows.drop(columns=[name for name in rows.columns if str(name).startswith("paper")])
    return rows.map(_cell)


def markdown(rows: pd.DataFrame) -> str:
    """The table as Markdown."""
    return _table(shown(rows))


def _table(cells: pd.DataFrame) -> str:
    lines = [list(cells.columns), ["---"] * len(cells.columns), *cells.to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    """Four digits, or all before the point; a dash for what is unknown."""
    if value is None:
        return "–"
    if not isinstance(value, float):
        return str(value) or "–"
    if math.isnan(value):
        return "–"
    return f"{value:,.0f}" if value >= 1e4 else f"{value:.4g}"
