"""Figures in docs/ are those of the committed results of the benchmarks that gave them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
WAYS = ("in turn", "in turn, plain rule", "sessions", "stored", "stored, plain rule")


def result(name: str) -> dict[str, Any]:
    """A committed file of benchmarks/results/."""
    found: dict[str, Any] = json.loads((ROOT / "benchmarks" / "results" / name).read_text(encoding="utf-8"))
    return found


def page(name: str) -> str:
    """A page of docs/."""
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def power_rows(results: dict[str, Any]) -> str:
    """Rows of docs/compare.md: without a change, then by slow-down."""
    rows = []
    for name, program in results["power"].items():
        found = [("none", rates) for rates in program["false alarms"].values()]
        found += [
            (f"{program['achieved'][asked]:.1%} ({asked})".replace("%", " %"), rates)
            for asked, rates in program["detected"].items()
        ]
        for what, rates in found:
            threshold = f"{100 * rates['threshold']:g} %"
            cells = [f"{100 * rates[way]:.0f} %" for way in WAYS]
            rows.append(f"| {name}: {what}, {threshold} | {' | '.join(cells)} |")
    return "\n".join(rows)


def test_rates_of_verdicts_on_a_gpu() -> None:
    """docs/compare.md has the rates that were measured on an H100, and every bound on them was met."""
    results = result("regression_power_h100.json")
    assert power_rows(results) in page("compare.md"), f"put these rows into docs/compare.md:\n{power_rows(results)}"
    assert results["environment"]["gpu"] in page("compare.md")
    assert [row["bound"] for row in results["bounds"] if not row["met"]] == []


def test_totals_of_torch_profiler() -> None:
    """docs/exports.md has the ratio of kernel totals that was measured, which was within the limit."""
    [program] = result("kineto_h100.json")["programs"].values()
    ratio = f"{program['ratio']:.4f} ± {program['half_width_95']:.4f}"
    assert ratio in page("exports.md"), f"docs/exports.md should say {ratio}"
    assert program["within_limit"]
    assert program["same_kernels"]
