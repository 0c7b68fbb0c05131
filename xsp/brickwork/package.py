"""Bricks as a package of its own: a proprietary model can be shared as what its parts do, and timed
anywhere, without weights, names or topology.
"""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xsp.brickwork.rounds import MODEL
from xsp.capture.writing import write_file
from xsp.errors import XspError

if TYPE_CHECKING:
    from xsp.brickwork.result import Bricks

RUNNER = "run_bricks.py"
_CODE = "brick_runner"
_MODULES = ("network", "rounds")
_README = """# {unique} bricks of {models}

Each brick is a network of a few operators, by their shapes, types and strides (DLBricks, ICPE
2020). There are no weights and no names in it. Where they came from is known as sums only: model 0
has so many of this brick, so many of that one. It needs PyTorch and nothing else:

    pip install torch
    python {runner} --threads 1 --output times.json

Every brick is called {rounds} times, in turn with the others, as it would run inside a model. The
program prints the latency of each model as the sum of its bricks, with a 95 % interval.
"""


def write_bricks(found: Bricks, folder: str | os.PathLike[str]) -> Path:
    """Write `bricks.json`, a program that times them, and a README to a new folder.

    Bricks are shuffled by their digest, and models have numbers, in random order too. Inputs and
    weights are made up when the program runs; the file says what their numbers are like (least,
    greatest, mean, deviation, share of zeros), since some operators take longer on others.

    Raises XspError where the folder holds something already, and for models in training mode.
    """
    target = Path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise XspError(f"{str(target)!r} is not an empty folder; name a new one")
    if any(each.model.work.grad for each in found.subjects):
        raise XspError(
            "exported bricks run forward only, and these are of a model in training mode; call "
            "model.eval() first"
        )
    content = _content(found)
    (target / _CODE).mkdir(parents=True, exist_ok=True)
    write_file(target / "bricks.json", (json.dumps(content, indent=1) + "\n").encode())
    write_file(target / RUNNER, _source("package_template.py"))
    write_file(target / _CODE / "__init__.py", b'"""Bricks as networks, taken from xsp."""\n')
    for name in _MODULES:
        write_file(target / _CODE / f"{name}.py", _source(f"{name}.py"))
    count = len(found.subjects)
    readme = _README.format(
        unique=len(content["bricks"]),
        models="a model" if count == 1 else f"{count} models",
        runner=RUNNER,
        rounds=100,
    )
    write_file(target / "README.md", readme.encode())
    return target


def _source(name: str) -> bytes:
    return resources.files("xsp.brickwork").joinpath(name).read_bytes()


def _content(found: Bricks) -> dict[str, Any]:
    sums = [
        {"granularity": granularity, "bricks": Counter(one.layer.digest for one in cut.bricks)}
        for subject in _shuffled(found)
        for granularity, cut in subject.decompositions.items()
    ]
    layers = {
        one.layer.digest: (one.layer, subject.algorithm)
        for subject in found.subjects
        for cut in subject.decompositions.values()
        for one in cut.bricks
    }
    place = {digest: number for number, digest in enumerate(sorted(layers))}
    rows = []
    for digest in place:
        layer, algorithm = layers[digest]
        record = found.records.get((digest, algorithm, MODEL))
        facts = {} if record is None else record.facts
        rows.append(
            {
                "facts": json.loads(layer.key),
                "values": facts.get("values", []),
                "occurrences": facts.get("occurrences", 1),
            }
        )
    models = [
        {
            "model": number // len(found.granularities),
            "granularity": each["granularity"],
            "bricks": sorted([place[digest], times] for digest, times in each["bricks"].items()),
        }
        for number, each in enumerate(sums)
    ]
    return {"format": "xsp bricks", "version": 1, "bricks": rows, "models": models}


def _shuffled(found: Bricks) -> list[Any]:
    """Their order says nothing about names or about when they were measured."""
    subjects = list(found.subjects)
    random.SystemRandom().shuffle(subjects)
    return subjects
