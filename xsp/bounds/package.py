"""A suite of layer benchmarks as a package of its own: a proprietary model can be shared as what
its layers do, without weights, names or edges.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from xsp.capture.writing import write_file
from xsp.errors import XspError
from xsp.graphs.graph import Graph
from xsp.graphs.unique import unique_layers

_README = """# Benchmarks of {unique} layers

Every distinct layer of {models} with {layers} layers, by operator, shapes and types. There are no
weights, no names and no topology in it. It needs PyTorch and pytest-benchmark, and nothing else:

    pip install torch pytest-benchmark
    pytest layers_bench.py --benchmark-sort=mean

On a GPU every round waits for the device, so a time is that of the call and its work together.
"""


def write_package(graphs: Sequence[Graph], folder: str | os.PathLike[str]) -> Path:
    """Write `layers.json`, `layers_bench.py`, the calls it makes, and a README to a new folder.

    Layers are shuffled by their digest, so that their order says nothing about the model.

    Raises XspError where the folder holds something already.
    """
    target = Path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise XspError(f"{str(target)!r} is not an empty folder; name a new one")
    target.mkdir(parents=True, exist_ok=True)
    found = sorted(unique_layers(graphs), key=lambda each: each.layer.digest)
    rows = [{"layer": each.layer.key, "count": each.count} for each in found]
    write_file(target / "layers.json", (json.dumps(rows, indent=1) + "\n").encode())
    write_file(target / "layers_bench.py", _source("bench_template.py"))
    models = "a model" if len(graphs) == 1 else f"{len(graphs)} models"
    readme = _README.format(unique=len(rows), models=models, layers=sum(map(len, graphs)))
    write_file(target / "README.md", readme.encode())
    package = target / "layer_calls"
    package.mkdir()
    write_file(package / "__init__.py", b'"""Layers as calls of PyTorch, taken from xsp."""\n')
    for name, module in _MODULES.items():
        source = resources.files(module).joinpath(f"{name}.py").read_text(encoding="utf-8")
        for own, place in _MODULES.items():
            source = source.replace(f"{place}.{own}", f"layer_calls.{own}")
        source = source.replace("xsp.errors", "layer_calls.errors")
        write_file(package / f"{name}.py", source.encode())
    errors = resources.files("xsp").joinpath("errors.py").read_text(encoding="utf-8")
    write_file(package / "errors.py", errors.encode())
    return target


_MODULES = {"layer": "xsp.graphs", "operators": "xsp.graphs", "torch_calls": "xsp.bounds"}
"""What the benchmarks are made of; none of these needs anything else of xsp."""


def _source(name: str) -> bytes:
    return resources.files("xsp.bounds").joinpath(name).read_bytes()
