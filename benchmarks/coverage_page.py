"""The table of docs/coverage.md from what `program_coverage.py` measured.

    python benchmarks/coverage_page.py benchmarks/results/program_coverage_h200.json

prints its rows, and what is not met of what is asked.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

LEAST_LED = 0.995
"""Share of the GPU's time that must be led to a source layer or to what is named and no layer."""

LEAST_OF_COMPILED = 0.95
"""Share of the time of compiled code that must be led to source layers."""


def table_of(results: dict[str, Any]) -> str:
    """A row for each program, with what is bold not met."""
    return "\n".join(_row(name, row) for name, row in results["programs"].items())


def _row(name: str, row: dict[str, Any]) -> str:
    if "error" in row:
        return f"| {name} | **failed** | | | | | |"
    count = f"{row['activities']:,}"
    if row["activities"] != row["counted_by_torch"]:
        count = f"**{count}** ({row['counted_by_torch']:,})"
    known = row["led"] + row["named"]
    cells = [
        name,
        count,
        f"{row['device_ms']:.3f}",
        _share(row["led"]),
        _share(row["named"]) if row["named"] else "",
        _bold(_share(known), is_met=known >= LEAST_LED),
        _of_compiled(row),
    ]
    return "| " + " | ".join(cells) + " |"


def _of_compiled(row: dict[str, Any]) -> str:
    """What compiled code leads to layers, and in how many layers the FLOPs are those of eager
    mode.
    """
    if "flops" not in row:
        return ""
    led, flops = row.get("led_of_compiled", 0.0), row["flops"]
    equal = f"{flops['equal']} of {flops['layers']}"
    shown = _bold(_share(led), is_met=led >= LEAST_OF_COMPILED)
    return f"{shown}, {_bold(equal, is_met=flops['equal'] == flops['layers'])}"


def _share(value: float) -> str:
    return f"{100 * value:.2f} %"


def _bold(text: str, *, is_met: bool) -> str:
    return text if is_met else f"**{text}**"


def not_met(results: dict[str, Any]) -> list[str]:
    """A sentence for each thing that is asked and not reached."""
    return [f"{name}: {miss}" for name, row in results["programs"].items() for miss in _misses(row)]


def _misses(row: dict[str, Any]) -> list[str]:
    if "error" in row:
        return [row["error"]]
    found = []
    if row["activities"] != row["counted_by_torch"]:
        found.append(
            f"{row['activities']} kernels, copies and sets, of which torch.profiler counts "
            f"{row['counted_by_torch']}"
        )
    known = row["led"] + row["named"]
    if known < LEAST_LED:
        found.append(f"{_share(known)} of the GPU's time is led somewhere")
    if "flops" not in row:
        return found
    led, flops = row.get("led_of_compiled", 0.0), row["flops"]
    if led < LEAST_OF_COMPILED:
        found.append(f"{_share(led)} of compiled code is led to source layers")
    if flops["equal"] < flops["layers"]:
        found.append(f"FLOPs differ in {flops['layers'] - flops['equal']} layers")
    return found


def main() -> None:
    """Print the rows, and what is not met."""
    results = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    print(table_of(results))
    print(*not_met(results), sep="\n")


if __name__ == "__main__":
    main()
