"""The table as a page, with the paper's beside it; every number comes from the rows."""

from __future__ import annotations

import json
import math
from typing import Any

import pandas as pd
from evaluation_findings import LEGEND, ByKey, findings
from evaluation_paper import ROWS

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
        *beside_the_paper(rows),
        "## Every model",
        markdown(rows),
        LEGEND,
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
    lines = [
        f"- {' '.join(key)}, {scenario}: {'; '.join(each.outcome.reasons)}"
        for key, scenarios in found.items()
        for scenario, each in scenarios.items()
        if not each.outcome.valid
    ]
    return ["## Tests that are not valid", "\n".join(lines)] if lines else []


_SAME_NETWORKS = (
    "The first columns are the paper's: TensorFlow 1 on a V100, one input and the best batch. Ours "
    "have the same layers, but their own padding, and in ResNet v1 (here v1.5) and v2 their own "
    "strides or image sizes; `googlenet` has normalisation, as Inception v1 has. Where there are "
    "dashes we have no such model, or no time was left for it."
)


# ---- cells ----


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
    if not isinstance(value, float):
        return str(value) or "–"
    if math.isnan(value):
        return "–"
    return f"{value:,.0f}" if value >= 1e4 else f"{value:.4g}"
