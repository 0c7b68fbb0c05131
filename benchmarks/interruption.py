"""Signals and exceptions at every place of the switching code, and what they leave behind.

For each line (or instruction) of `tests/faults.py`'s list that a profile reaches, a profile is made
in which a signal whose handler raises arrives there (`signal`), an exception is raised there
(`exception`), or another thread is taken to have one raised (`asynchronous`) or to interrupt the
main one (`interrupt`). Whatever is then not as it was before is a residue; an exception other than
the one raised is a stranger; missed is what was raised and never came to the caller.

    python benchmarks/interruption.py [--kind exception] [--program steps] [--instructions]
        [--most N] [--part 1/4] [--seconds S] [--json F]

`measure` profiles by `xsp.measure`, `steps` along a training loop with `prof.step()`, and `calls`
along one whose model calls are the steps.
"""

from __future__ import annotations

import _thread
import argparse
import json
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
import faults

import xsp

OPTIONS: dict[str, Any] = {"levels": "M/L", "iterations": 1, "warmup": 0, "progress": False}
STEPS = 10


STRIKES: dict[str, Callable[[], None]] = {
    "signal": lambda: signal.raise_signal(signal.SIGTERM),
    "exception": faults.raise_fault,
    "asynchronous": faults.raise_asynchronously,
    "interrupt": _thread.interrupt_main,
}
"""By kind, what happens at a place."""


def program(name: str, model: nn.Module, x: torch.Tensor) -> Callable[[], None]:
    """A profile of this kind."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    followed = {"optimizer": optimizer} if name == "steps" else {"along": True}

    def measure() -> None:
        xsp.measure(model, x, **OPTIONS)

    def loop() -> None:
        with xsp.profile(model, **followed, **OPTIONS) as prof:
            for _ in range(STEPS):
                optimizer.zero_grad()
                model(x).sum().backward()
                optimizer.step()
                if name == "steps":
                    prof.step()

    return measure if name == "measure" else loop


def struck(
    kind: str, name: str, *, opcodes: bool, most: int, part: tuple[int, int], seconds: float
) -> dict[str, Any]:
    """The figures of up to `most` places, a seeded sample of all; of these the `part[0]`-th of
    `part[1]` parts, as far as they are begun within `seconds`.
    """
    model, x = faults.model_and_input()
    run = program(name, model, x)
    own = frozenset() if name == "measure" else faults.OF_TRAINING

    strike = STRIKES[kind]

    run()
    places = faults.places(run, opcodes=opcodes, visits=2)
    chosen = random.Random(0).sample(places, min(most, len(places)))[part[0] - 1 :: part[1]]
    outcomes: Counter[str] = Counter()
    residues: list[str] = []
    missed: list[str] = []
    begin = time.perf_counter()
    with faults.handlers([signal.SIGTERM, signal.SIGINT]):
        for place in chosen:
            if time.perf_counter() - begin > seconds:
                break
            before = faults.state_of(model)
            error = faults.struck(run, place, strike)
            outcomes[type(error).__name__] += 1
            where = f"{place.file}:{place.line} {place.function}"
            if type(error) is faults.Missed:
                missed.append(where)
            del error
            left = set(faults.residue(before, faults.state_of(model))) - own
            if left:
                residues.append(f"{where}: {', '.join(sorted(left))}")
                model, x = faults.model_and_input()
                run = program(name, model, x)
    known = {"Leaving", "Fault", "Missed", "Unreached"}
    return {
        "kind": kind,
        "program": name,
        "places": "instructions" if opcodes else "lines",
        "reached": len(places),
        "part": list(part),
        "struck": outcomes.total(),
        "outcomes": dict(outcomes),
        "strangers": sum(count for name, count in outcomes.items() if name not in known),
        "residues": residues,
        "missed": missed,
        "seconds": round(time.perf_counter() - begin, 1),
    }


def _part(text: str) -> tuple[int, int]:
    number, of = map(int, text.split("/"))
    return number, of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", choices=list(STRIKES), default="signal")
    parser.add_argument("--program", choices=["measure", "steps", "calls"], default="measure")
    parser.add_argument("--instructions", action="store_true")
    parser.add_argument("--most", type=int, default=1_000_000)
    parser.add_argument("--part", type=_part, default=(1, 1), metavar="N/OF")
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    figures = struck(
        options.kind,
        options.program,
        opcodes=options.instructions,
        most=options.most,
        part=options.part,
        seconds=options.seconds,
    )
    text = json.dumps(figures, indent=1)
    print(text)
    if options.json:
        options.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
