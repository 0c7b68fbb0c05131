"""Record the bundled captures on this machine's GPU: python benchmarks/record_captures.py
FOLDER.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from overhead_programs import resnet50, train_step, transformer

import xsp

ROUNDS = {"resnet50": 60, "transformer": 60, "train_step": 30}

PROGRAMS: dict[str, Callable[[], tuple[Any, tuple[Any, ...]]]] = {
    "resnet50": lambda: resnet50.target(batch=32),
    "transformer": lambda: transformer.target(batch=1),
    "train_step": lambda: (train_step.target(batch=32), ()),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    if not torch.cuda.is_available():
        parser.error("there is no GPU here, and the bundled captures show one")
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in PROGRAMS.items():
        target, inputs = make()
        with torch.set_grad_enabled(name == "train_step"):
            prof = xsp.measure(target, *inputs, iterations=ROUNDS[name], progress=False)
        path = prof.save(folder / f"h100_{name}.xsp")
        print(
            f"{path}: {path.stat().st_size} bytes, {path.stat().st_size / len(prof.spans):.1f} "
            "bytes a span"
        )
        print(prof)


if __name__ == "__main__":
    main()
