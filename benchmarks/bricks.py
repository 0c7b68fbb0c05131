"""DLBricks over pools of models: how near constructed latencies are, and how much sooner bricks are
measured than models.

    python benchmarks/bricks.py --pool fifty --repeat 3 --budget-s 7200 --shared --modules \
        --output bricks_fifty_cpu.json --database bricks.sqlite
    python benchmarks/bricks.py --pool fifty --device cuda --number 0 --threads 4 --modules \
        --budget-s 400 --model-s 30 --output bricks_fifty_h200.json
    python benchmarks/bricks.py --pool diverse --statistics paper --overlap --estimate
    python benchmarks/bricks.py --page docs/bricks.md --output bricks_fifty_cpu.json
    python benchmarks/bricks.py --merge first.json,second.json --output bricks_fifty_h200.json

Models are built from configurations with random weights; nothing is downloaded. Models are taken
`--together` at a time, in turn with all of their bricks, also those that another model has
measured: so drift falls out, and a model can be constructed from what others measured. Each such
group has a process and, for each whole measurement (`--repeat`), a database of its own, and the
JSON (and what its bricks take, beside it) is written after it. With `--shared` a measurement has
one database, and bricks that it knows well enough are not run again. A run that is ended, or whose
budget is spent, goes on where it was when it is started again. A budget is shared out: each model
has an equal share of what is left. A model that raises, takes longer than `--model-s` or ends its
process is named and left out. `--estimate` runs every model for one round only and says how long
all rounds would take.

`--number` measures all models in this process, where starting one takes long: on a GPU.

The rule (granularity and constructor) is chosen on every other model and judged on the rest, by the
geometric mean of constructed over measured latency; the median of the measurements counts.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import json
import math
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bricks_files import (
    PAPER_ROUNDS,
    add,
    add_bricks,
    beside,
    fail,
    is_complete,
    merge,
    read,
    untried_first,
    write,
)
from bricks_page import draw, write_page
from bricks_pools import built, pool
from bricks_summary import pool_rows, summary
from bricks_time import around_s, rounds_s
from time_limit import limited

GRANULARITIES = (1, 3, 5, 10)
_CROWDED_BYTES = 40 << 30
"""Of models that are done and still wait for the garbage collector."""
_LEAST_S = 5.0
"""A process with less time left than this measures nothing."""


def main() -> None:
    options = _options()
    # So that a run that is ended by SIGTERM ends the process that it has started, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    names = options.models.split(",") if options.models else pool(options.pool)
    if options.merge:
        merge([Path(each) for each in options.merge.split(",")], options.output)
        finish(options)
    elif options.page is not None:
        if beside(options).exists():
            finish(options)
        write_page(options.output, options.page)
    elif options.number is not None:
        in_this_process(names, options)
    elif options.estimate:
        for name in names:
            run_apart([name], 0, 0.0)
    else:
        measured(names, options)
        finish(options)


def in_this_process(names: list[str], options: argparse.Namespace) -> None:
    """What `run_apart` starts, and what measures many models where starting takes long."""
    if options.estimate:
        print_estimate(names, options)
        return
    _measure_all(names, options)
    if len(names) > options.together:
        finish(options)


def _measure_all(names: list[str], options: argparse.Namespace) -> None:
    # Before any model's time runs: an import that is ended half way cannot be repeated.
    import xsp.brickwork.bricks  # noqa: F401  (for its import alone)

    begin = time.monotonic()
    todo = [
        (
            options.number,
            [name for name in chunk if not is_complete(name, options.number, options)],
        )
        for chunk in _chunks(names, options.together)
    ]
    todo = untried_first([each for each in todo if each[1]], options)
    for place, (number, chunk) in enumerate(todo):
        left = options.budget_s - (time.monotonic() - begin)
        if left < _LEAST_S:
            print("the budget is spent; run it again to go on", flush=True)
            return
        measure(chunk, number, options, left / (len(todo) - place))
        if options.device == "cuda":
            _leave_gpu_free()
        else:
            _leave_memory_free()
        print(f"{time.monotonic() - begin:6.0f} s  {', '.join(chunk)}", flush=True)


def _leave_gpu_free() -> None:
    """Raises where a model has left the GPU unusable: in this process all others would fail, too,
    and the next run goes on behind that model.
    """
    import torch

    torch.cuda.synchronize()
    if torch.cuda.memory_allocated() > _CROWDED_BYTES:
        gc.collect()
        torch.cuda.empty_cache()


def _leave_memory_free() -> None:
    """What a model has freed stays with the process while bricks are timed, and no longer."""
    gc.collect()
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library than glibc
            ctypes.CDLL(None).malloc_trim(0)


def measured(names: Sequence[str], options: argparse.Namespace) -> bool:
    """Measure all that the JSON lacks; whether there was time for it."""
    begin = time.monotonic()
    todo = [
        (number, [name for name in chunk if not is_complete(name, number, options)])
        for number in range(options.repeat)
        for chunk in _chunks(names, options.together)
    ]
    todo = untried_first([each for each in todo if each[1]], options)
    for place, (number, chunk) in enumerate(todo):
        passed = time.monotonic() - begin
        left = options.budget_s - passed
        if left < _LEAST_S:
            print("the budget is spent; run it again to go on", flush=True)
            return False
        measure_apart(chunk, number, options, left / (len(todo) - place))
        passed = time.monotonic() - begin
        left_s = passed / (place + 1) * (len(todo) - place - 1)
        print(
            f"{passed:6.0f} s  measurement {number}: {', '.join(chunk)}; {place + 1} of "
            f"{len(todo)} groups, about {left_s / 60:.0f} min left",
            flush=True,
        )
    return all(
        is_complete(name, number, options) for number in range(options.repeat) for name in names
    )


def _chunks(names: Sequence[str], size: int) -> Iterator[list[str]]:
    for start in range(0, len(names), size):
        yield list(names[start : start + size])


def measure_apart(names: list[str], number: int, options: argparse.Namespace, left: float) -> None:
    """Measure in a process of its own, so that nothing that a model leaves behind or breaks reaches
    the next. A group that ends its process is taken apart; a model that does is a failure.
    """
    status = run_apart(names, number, left)
    if status == 0:
        return
    if len(names) > 1:
        for name in names:
            measure_apart([name], number, options, left)
        return
    kept = read(options.output)
    why = f"its process ended with {status}"
    fail(kept, names, str(number), why)
    write(options.output, kept)


def run_apart(names: Sequence[str], number: int, left: float) -> int:
    """Start this program for some models, in a process of its own; returns its status."""
    own = ["--number", str(number), "--models", ",".join(names), "--together", str(len(names))]
    if not math.isinf(left):
        own += ["--budget-s", f"{left:.0f}"]
    command = [sys.executable, __file__, *sys.argv[1:], *own]
    return subprocess.run(command, check=False).returncode


def _place(options: argparse.Namespace, number: int, names: Sequence[str]) -> Path:
    """The database of a group in a measurement."""
    base: Path = options.database
    if options.shared:
        return base.with_name(f"{base.stem}-{number}{base.suffix or '.sqlite'}")
    group = names[0].replace("/", "_") + (f"_and_{len(names) - 1}" if len(names) > 1 else "")
    return base.with_name(f"{base.stem}-{number}-{group}{base.suffix or '.sqlite'}")


def measure(names: list[str], number: int, options: argparse.Namespace, share_s: float) -> None:
    """Measure some models in turn with their bricks within their share of the time, unless the JSON
    has them.
    """
    todo = [name for name in names if not is_complete(name, number, options)]
    if not todo:
        return
    started = time.monotonic()
    kept = read(options.output)
    around = around_s(kept["measurements"]) * len(todo)
    budget = rounds_s(share_s, 1, around, options.group_s or math.inf)
    try:
        with limited(options.model_s * len(todo)):
            found = _found(todo, _place(options, number, todo), number, options, budget)
    except Exception as error:  # whatever a model raises; the others go on
        fail(kept, todo, str(number), f"{type(error).__name__}: {error}"[:300])
    else:
        add(kept, found, todo, str(number), time.monotonic() - started, budget)
        add_bricks(found, str(number), options)
    kept["clock"], kept["statistics"] = options.clock, options.statistics
    kept["threads"], kept["batch"] = options.threads, options.batch
    write(options.output, kept)


def _found(
    names: list[str],
    database: Path,
    number: int,
    options: argparse.Namespace,
    budget_s: float | None,
) -> Any:
    import xsp

    targets, missing = _targets(names, options)
    found = xsp.bricks(
        *targets.values(),
        names=list(targets),
        database=database,
        granularity=GRANULARITIES,
        statistics=options.statistics,
        overlap=options.overlap,
        modules=options.modules,
        bracket=options.bracket,
        threads=options.threads,
        clock=options.clock,
        budget_s=None if budget_s is None or math.isinf(budget_s) else budget_s,
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


def finish(options: argparse.Namespace) -> None:
    """Put what the measurements say together into the JSON, and draw it."""
    kept, bricks = read(options.output), read(beside(options))["measurements"]
    if not kept["measurements"]:
        return
    whole = {
        number: {
            name: {**each, "bricks": bricks.get(number, {}).get(name, {})}
            for name, each in models.items()
        }
        for number, models in kept["measurements"].items()
    }
    kept["summary"] = summary(whole)
    kept["pool"] = pool_rows(whole)
    write(options.output, kept)
    draw(kept, options.output.with_suffix(".html"))
    print(json.dumps({"summary": kept["summary"], "pool": kept["pool"]}, indent=1), flush=True)


# ---- how long it would take ----


def print_estimate(names: Sequence[str], options: argparse.Namespace) -> None:
    """The seconds of a whole measurement on a machine that does nothing else: what comes before the
    rounds, by CPU time, and as many rounds as the paper has, of which one is run.
    """
    with tempfile.TemporaryDirectory() as scratch:
        found = _found(list(names), Path(scratch) / "bricks.sqlite", 0, options, 0.0)
    before_s = time.process_time()
    for name, why in found.failures.items():
        print(f"{name}: {why}", flush=True)
    round_s = sum(each.mean_ns for each in found.records.values() if each.samples_ns) / 1e9
    print(
        f"{', '.join(names)}: {before_s:.0f} s before, {round_s:.2f} s a round; "
        f"{before_s + PAPER_ROUNDS * round_s:.0f} s for {PAPER_ROUNDS} rounds",
        flush=True,
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--pool", default="small", help="small, families, ten, large, diverse or fifty"
    )
    parser.add_argument("--models", default="", help="names with commas, instead of a pool")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", default="wall", help="cpu where others use the machine as well")
    parser.add_argument("--statistics", default="driver")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--together", type=int, default=1)
    parser.add_argument("--group-s", type=float, default=0.0, help="seconds of rounds for a group")
    parser.add_argument("--model-s", type=float, default=0.0, help="seconds at most for a model")
    parser.add_argument("--budget-s", type=float, default=math.inf, help="seconds for everything")
    parser.add_argument("--shared", action="store_true", help="one database for all models")
    parser.add_argument("--overlap", action="store_true")
    parser.add_argument("--modules", action="store_true", help="also bricks of models' modules")
    parser.add_argument("--bracket", action="store_true")
    parser.add_argument("--estimate", action="store_true", help="measure nothing, say how long")
    parser.add_argument("--database", type=Path, default=Path("bricks.sqlite"))
    parser.add_argument("--output", type=Path, default=Path("bricks.json"))
    parser.add_argument("--page", type=Path)
    parser.add_argument("--merge", default="", help="files with commas, made with other --number")
    parser.add_argument("--number", type=int, help="this measurement only, all in one process")
    return parser.parse_args()


if __name__ == "__main__":
    main()
