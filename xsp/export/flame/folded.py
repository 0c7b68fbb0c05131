"""Folded stacks, a line each (`model;layer1;conv1;kernel 1234`): what flamegraph.pl, inferno,
speedscope and Grafana read. Weights are ns.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from xsp.capture.writing import writable, write_file
from xsp.export.flame.stacks import stacks_of

if TYPE_CHECKING:
    from xsp.analysis.profile_data import ProfileData


def write_folded(prof: ProfileData, path: Path) -> Path:
    """Write one line for each stack, equal ones summed.

    Raises WriteError where it cannot be written.
    """
    target = writable(path)
    found = stacks_of(prof)
    # A semicolon parts frames, and the last blank of a line its weight.
    names = [name.replace(";", ":") for name in found.frames]
    sums: dict[str, int] = {}
    for stack, weight in zip(found.samples, found.weights_ns.tolist(), strict=True):
        line = ";".join(names[frame] for frame in stack)
        sums[line] = sums.get(line, 0) + weight
    text = "".join(f"{line} {weight}\n" for line, weight in sums.items())
    return write_file(target, text.encode())
