"""The command line of benchmarks that measure programs by name, in rounds, and what they report."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from xsp.machine.environment import environment

Measures = Mapping[str, Callable[[], Any]]


def report(
    about: str | None, named: str, measures: Callable[[str, int], Measures], **facts: Any
) -> None:
    """Measure each, printing its figures, and write them all, under `named` and behind `facts`.

    Args:
        about: the benchmark's docstring, for `--help`.
        named: what the report calls that which is measured.
        measures: from the device and the number of rounds to what measures each.
        facts: what else the report says.

    """
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--only", default="", help="run those whose name contains this")
    arguments = parser.parse_args()
    if arguments.device == "cpu":
        torch.set_num_threads(1)
    found: dict[str, Any] = {}
    for name, measure in measures(arguments.device, arguments.rounds).items():
        if arguments.only in name:
            found[name] = measure()
            print(json.dumps({name: found[name]}), flush=True)
    if arguments.json:
        said = {
            "environment": environment(),
            "device": arguments.device,
            "rounds": arguments.rounds,
            **facts,
            named: found,
        }
        arguments.json.write_text(json.dumps(said, indent=1) + "\n")
