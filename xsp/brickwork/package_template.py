"""Time the bricks in bricks.json as they run inside a model, and add them up: see README.md."""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from brick_runner.network import (  # type: ignore[import-not-found] # beside it, once exported
    built,
    fresh,
    synthetic,
)
from brick_runner.rounds import (  # type: ignore[import-not-found] # the same
    Runnable,
    round_of,
    settled,
)

TRIM = 0.2
Z = 1.959964
"""Quantile of the normal distribution for 95 %."""


def main() -> None:
    """Run, print and, if asked for, write a file."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=100)
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--output", type=Path)
    chosen = options.parse_args()
    content = json.loads((Path(__file__).parent / "bricks.json").read_text())
    times = measured(content["bricks"], chosen.rounds, chosen.threads)
    models = [{**each, **summed(each["bricks"], times)} for each in content["models"]]
    for each in models:
        print(  # noqa: T201 # a program of its own
            f"model {each['model']}, granularity {each['granularity']}: "
            f"{each['latency_ms']:.3f} ± {each['half_width_ms']:.3f} ms"
        )
    if chosen.output is not None:
        rows = [{"time_ns": mean, "half_width_ns": half} for mean, half in times]
        facts = {"torch": torch.__version__, "threads": chosen.threads, "rounds": chosen.rounds}
        chosen.output.write_text(json.dumps({**facts, "models": models, "bricks": rows}, indent=1))


def measured(
    bricks: Sequence[dict[str, Any]], rounds: int, threads: int
) -> list[tuple[float, float]]:
    """Trimmed mean and half of the 95 % interval of each brick, in ns; NaN for one that fails."""
    found: list[tuple[float, float]] = [(math.nan, math.nan)] * len(bricks)
    with settled(threads):
        runnables = {place: _runnable(each) for place, each in enumerate(bricks)}
        good = {place: each for place, each in runnables.items() if each is not None}
        order, samples = random.Random(0), []  # noqa: S311 # an order, no secret
        for number in range(-2, rounds):
            taken = round_of(list(good.values()), max(number, 0), fresh, order)
            samples += [[each.total_ns for each in taken]] if number >= 0 else []
    for place, own in zip(good, zip(*samples, strict=True), strict=True):
        found[place] = trimmed(own)
    return found


def _runnable(brick: dict[str, Any]) -> Any:
    """The brick's networks, each with weights of its own; None, and why, for one that fails."""
    facts, calls, inputs = brick["facts"], [], []
    try:
        for seed in range(max(brick["occurrences"], 1)):
            given, weights = synthetic(facts, brick["values"], "cpu", seed)
            calls.append(built(facts, weights).forward)
            inputs.append(given)
        made = Runnable(calls, inputs, segment=brick["segment"])
        round_of([made], 0, fresh, random.Random(0))  # noqa: S311 # an order, no secret
    except Exception as error:  # whatever an operator raises
        print(f"a brick cannot be run here: {error}", file=sys.stderr)  # noqa: T201 # as above
        return None
    return made


def trimmed(samples: Sequence[float]) -> tuple[float, float]:
    """Mean without the lowest and highest fifth, and half of its 95 % interval (Yuen 1974)."""
    values = sorted(map(float, samples))
    cut = int(TRIM * len(values))
    kept = values[cut : len(values) - cut]
    mean, freedom = sum(kept) / len(kept), len(kept) - 1
    if freedom < 1:
        return mean, math.nan
    winsorised = [kept[0]] * cut + kept + [kept[-1]] * cut
    middle = sum(winsorised) / len(winsorised)
    squares = sum((each - middle) ** 2 for each in winsorised)
    error = math.sqrt(squares / (len(kept) * freedom))
    return mean, _student(freedom) * error


def _student(freedom: int) -> float:
    """Quantile of Student's t for 95 %, by its expansion around the normal one (Fisher 1926)."""
    first = (Z**3 + Z) / (4 * freedom)
    second = (5 * Z**5 + 16 * Z**3 + 3 * Z) / (96 * freedom**2)
    return Z + first + second


def summed(
    bricks: Sequence[Sequence[int]], times: Sequence[tuple[float, float]]
) -> dict[str, float]:
    """Latency of a model: each brick as often as it has it. Equal bricks are off together."""
    latency = sum(count * times[place][0] for place, count in bricks)
    width = math.sqrt(sum((count * times[place][1]) ** 2 for place, count in bricks))
    return {"latency_ms": latency / 1e6, "half_width_ms": width / 1e6}


if __name__ == "__main__":
    main()
