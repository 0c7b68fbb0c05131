"""Modules that are not layers, as intervals around their layers.

Only layers are stamped. The time of a module around them is known where its layers follow each
other without another module's in between: from the first one's start to the last one's end. Where
calls of a module run into each other or interleave with another's, no interval is drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from xsp.analysis.spans.outside import NO_LAYER_KIND
from xsp.types import Tables

COLUMNS = ["name", "depth", "thread", "start_ns", "end_ns", "recorded_ns", "detail"]


def enclosing_modules(
    tables: Tables, layers: pd.DataFrame, call: npt.NDArray[np.int64]
) -> pd.DataFrame:
    """Intervals of modules in the forward pass of one run.

    `layers` has the run's LAYER spans (thread, start_ns, end_ns, recorded_ns, detail), `call` the
    model call of each. A module is drawn if its stretches of layers are as many as its calls in the
    structure run. Columns: name, depth (dots in the name), thread, start_ns, end_ns, recorded_ns
    (start as recorded), detail (row of `modules`).
    """
    known = tables["layers"]
    details = layers["detail"].to_numpy()
    forward = (known["phase"].to_numpy() == "forward")[details] & (
        known["kind"].to_numpy() != NO_LAYER_KIND
    )[details]
    here = layers[forward].assign(
        call=call[forward], module=known["module"].to_numpy(dtype=object)[details[forward]]
    )
    here = here.sort_values(["call", "thread", "start_ns"], kind="stable")
    parts = list(_stretches(here, tables["modules"]))
    if not parts:
        return pd.DataFrame(columns=COLUMNS)
    return pd.concat(parts, ignore_index=True)[COLUMNS]


def _stretches(layers: pd.DataFrame, modules: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """One table per depth of nesting."""
    code, distinct = pd.factorize(layers["module"].to_numpy(dtype=object))
    paths = [str(path).split(".") if path else [] for path in distinct]
    calls = modules["calls"].to_numpy()
    names = modules["name"].to_numpy(dtype=object)
    call = layers["call"].to_numpy(dtype=np.int64)
    thread = layers["thread"].to_numpy(dtype=np.int64)
    moves = (call[1:] != call[:-1]) | (thread[1:] != thread[:-1])
    for depth in range(max(map(len, paths), default=0)):
        module = _modules_at(depth, paths, modules)[code]
        changes = moves | (module[1:] != module[:-1])
        stretch = np.cumsum(np.r_[False, changes])
        found = layers.assign(detail=module).groupby(stretch, sort=False)
        bounds = {"start_ns": "min", "end_ns": "max", "recorded_ns": "min"}
        table = found.agg({"detail": "first", "thread": "first", **bounds})
        table = table[table["detail"] >= 0]
        # A module with more or fewer stretches than calls was called in turns with another.
        number = table["detail"].map(table["detail"].value_counts()).to_numpy()
        table = table[number == calls[table["detail"]]]
        yield table.assign(depth=depth, name=names[table["detail"]])


def _modules_at(
    depth: int, paths: Sequence[Sequence[str]], modules: pd.DataFrame
) -> npt.NDArray[np.int64]:
    """For each path the row of the module around it at this depth, -1 where there is none."""
    place = {str(name): row for row, name in enumerate(modules["name"])}
    rows = []
    for path in paths:
        known = place.get(".".join(path[: depth + 1]), -1)
        rows.append(known if len(path) > depth else -1)
    return np.array(rows, dtype=np.int64)
