"""DLBricks over pools of models: how near constructed latencies are, and how much sooner bricks are
measured than models.

    python benchmarks/bricks.py --pool small --output bricks_small_cpu.json --database bricks.sqlite
    python benchmarks/bricks.py --pool diverse --repeat 3 --output bricks_cpu.json --budget-s 3000
    python benchmarks/bricks.py --page docs/bricks.md --output bricks_small_cpu.json

Models are built from configurations with random weights; nothing is downloaded. Each whole
measurement (`--repeat`) has a database of its own, and models are taken `--together` at a time, in
turn with their bricks. A run that is ended, or whose budget is spent, goes on where it was: what a
database has complete is not measured again, and a model that is in the JSON is skipped.

The rule (granularity and constructor) is chosen on every other model and judged on the rest, by the
geometric mean of constructed over measured latency; the median of the measurements counts.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bricks_pools import built, pool
from bricks_summary import draw, summary, write_page

GRANULARITIES = (1, 3, 5, 10)


def main() -> None:
    options = _options()
    if options.page is not None:
        write_page(options.output, options.page)
        return
    begin = time.monotonic()
    names = options.models.split(",") if options.models else pool(options.pool)
    for number in range(options.repeat):
        for chunk in _chunks(names, options.together):
            left = options.budget_s - (time.monotonic() - begin)
            if left < 5:
                print("the budget is spent; run it again to go on")
                return
            measure(chunk, number, options, left)
    kept = _read(options.output)
    kept["summary"] = summary(kept["measurements"])
    kept["pool"] = pool_figures(names, options)
    _write(options.output, kept)
    draw(kept, options.output.with_suffix(".html"))
    print(json.dumps({"summary": kept["summary"], "pool": kept["pool"]}, indent=1))


def _chunks(names: Sequence[str], size: int) -> Iterator[list[str]]:
    for start in range(0, len(names), size):
        yield list(names[start : start + size])


def _place(options: argparse.Namespace, number: int) -> Path:
    base: Path = options.database
    return base.with_name(f"{base.stem}-{number}{base.suffix or '.sqlite'}")


def measure(names: list[str], number: int, options: argparse.Namespace, left: float) -> None:
    """Measure some models in turn with their bricks, unless the JSON has them."""
    kept = _read(options.output)
    done = kept["measurements"].setdefault(str(number), {})
    todo = [name for name in names if not done.get(name, {}).get("complete")]
    if not todo:
        return
    started = time.monotonic()
    budget = min(left, options.group_s) if options.group_s else left
    found = _found(todo, number, options, budget, run=True)
    rows = found.to_dict()
    complete = _complete(found)
    for name in todo:
        mine = [row for row in rows["models"] if row["model"] == name]
        done[name] = {"rows": mine, "failure": rows["failures"].get(name, ""), "complete": complete}
    kept["machine"], kept["clock"] = rows["machine"], options.clock
    kept["rounds"] = min([kept.get("rounds", 100), *_rounds(found)])
    kept["notes"] = sorted({*kept.get("notes", []), *rows["notes"]})
    seconds = kept.setdefault("seconds", {})
    seconds[str(number)] = seconds.get(str(number), 0.0) + time.monotonic() - started
    _write(options.output, kept)
    del found
    gc.collect()


def _found(
    names: list[str], number: int, options: argparse.Namespace, budget_s: float, *, run: bool
) -> Any:
    import xsp

    targets, missing = _targets(names, options)
    found = xsp.bricks(
        *targets.values(),
        names=list(targets),
        database=_place(options, number),
        granularity=GRANULARITIES,
        statistics=options.statistics,
        overlap=options.overlap,
        bracket=options.bracket and run,
        threads=options.threads,
        clock=options.clock,
        budget_s=budget_s,
        run=run,
        seed=number,
    )
    return replace(found, failures={**found.failures, **missing})


def _targets(
    names: list[str], options: argparse.Namespace
) -> tuple[dict[str, Any], dict[str, str]]:
    """Models with their inputs, and why others could not be built."""
    targets: dict[str, Any] = {}
    missing: dict[str, str] = {}
    for name in names:
        try:
            targets[name] = built(name, options.device, options.batch)
        except Exception as error:  # a package that is not there, for example
            missing[name] = f"{type(error).__name__}: {error}"[:300]
    return targets, missing


def _rounds(found: Any) -> list[int]:
    """How often each brick was called inside rounds."""
    return [len(each.samples_ns) for each in found.records.values() if each.caches == "model"]


def _complete(found: Any) -> bool:
    """Whether nothing of these models would be measured by another call."""
    return all(record.complete for record in found.records.values())


def pool_figures(names: list[str], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Unique shares, speed-up and what each model has of its own, of the first measurement."""
    found = _found(names, 0, options, 0.0, run=False)
    alone = found.leave_one_out(1)
    rows: list[dict[str, Any]] = found.to_dict()["pools"]
    rows[0]["own_share_of_bricks"] = float((alone["own"] / alone["bricks"]).mean())
    rows[0]["shared_share_of_latency"] = float(alone["shared"].mean())
    return rows


def _read(path: Path) -> dict[str, Any]:
    if path.exists():
        kept: dict[str, Any] = json.loads(path.read_text())
        return kept
    return {"measurements": {}}


def _write(path: Path, kept: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(kept, indent=1) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pool", default="small", help="small, families, ten or diverse")
    parser.add_argument("--models", default="", help="names with commas, instead of a pool")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", default="wall", help="cpu where others use the machine as well")
    parser.add_argument("--statistics", default="driver")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--together", type=int, default=8)
    parser.add_argument("--group-s", type=float, default=0.0, help="seconds at most for a group")
    parser.add_argument("--budget-s", type=float, default=600.0)
    parser.add_argument("--overlap", action="store_true")
    parser.add_argument("--bracket", action="store_true")
    parser.add_argument("--database", type=Path, default=Path("bricks.sqlite"))
    parser.add_argument("--output", type=Path, default=Path("bricks.json"))
    parser.add_argument("--page", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
