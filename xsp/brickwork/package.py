"""Bricks as a package of its own: a proprietary model can be shared as what its parts do, and timed
anywhere, without weights, names and edges.
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
    from xsp.brickwork.bricks_data import BricksData
    from xsp.graphs.layer import Layer

RUNNER = "run_bricks.py"
_CODE = "brick_runner"
_MODULES = ("network", "rounds")
_README = """# {unique} bricks of {models}

Each brick is a network of a few operators, by their shapes, types and strides (DLBricks, ICPE
2020). There are no weights and no names in it. Each stands once, where it first runs, unless that
order was hidden; model 0 has so many of this brick, so many of that one. It needs PyTorch and
nothing else:

    pip install torch
    python {runner} --threads 1 --output times.json

Every brick is called {rounds} times, in turn with the others, as it would run inside a model. The
program prints the latency of each model as the sum of its bricks, with a 95 % interval.
"""


def write_bricks(
    found: BricksData, folder: str | os.PathLike[str], *, shuffled: bool = False
) -> Path:
    """Write `bricks.json`, a program that times them, and a README to a new folder.

    Models have numbers, in random order. Each brick stands once, where it first runs, since what
    ran before decides how warm it finds the code; `shuffled` hides that order, and times are then
    some percent longer. Inputs and weights are made up when the program runs; the file says what
    their numbers are like (least, greatest, mean, deviation, share of zeros), since some operators
    take longer on others.

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
    content = _content(found, shuffled)
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


def _content(found: BricksData, shuffled: bool) -> dict[str, Any]:
    sums: list[dict[str, Any]] = []
    layers: dict[str, tuple[Layer, str, int]] = {}
    for subject in _in_any_order(found):
        for granularity, cut in subject.decompositions.items():
            digests = [one.layer.digest for one in cut.bricks]
            sums.append({"granularity": granularity, "bricks": Counter(digests)})
            for one in cut.bricks:
                layers.setdefault(one.layer.digest, (one.layer, subject.algorithm, len(sums)))
    order = sorted(layers) if shuffled else list(layers)
    place = {digest: number for number, digest in enumerate(order)}
    rows = []
    for digest in order:
        layer, algorithm, segment = layers[digest]
        record = found.records.get((digest, algorithm, MODEL))
        facts = {} if record is None else record.facts
        rows.append(
            {
                "facts": json.loads(layer.key),
                "values": facts.get("values", []),
                "occurrences": facts.get("occurrences", 1),
                "segment": place[digest] if shuffled else segment,
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


def _in_any_order(found: BricksData) -> list[Any]:
    """Their order says nothing about names or about when they were measured."""
    subjects = list(found.subjects)
    random.SystemRandom().shuffle(subjects)
    return subjects
