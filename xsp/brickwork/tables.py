"""Tables of models and pools: constructed and measured. Pure functions of what was taken apart and
what was measured.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import nan
from typing import Any

import numpy as np
import pandas as pd

from xsp.brickwork.composing import busy_ns, replayed
from xsp.brickwork.construction import (
    SUM,
    Constructed,
    Times,
    along_critical_path,
    overlapping,
    repeating,
    summed,
)
from xsp.brickwork.cutting import Decomposition
from xsp.brickwork.plan import Subject
from xsp.brickwork.rounds import MODEL
from xsp.brickwork.samples import Key, Record, times_of

Records = Mapping[Key, Record]
OF_MODULES = "modules, {}"
"""A rule whose bricks are calls of a model's modules (`xsp.brickwork.modules`)."""

MODEL_COLUMNS = [
    "model",
    "granularity",
    "rule",
    "layers",
    "bricks",
    "unique",
    "measured_ms",
    "measured_ci_ms",
    "graph_ms",
    "constructed_ms",
    "constructed_ci_ms",
    "normalised",
    "normalised_ci",
    "normalised_graph",
    "covered",
    "device_ms",
    "constructed_device_ms",
]
POOL_COLUMNS = [
    "granularity",
    "models",
    "bricks",
    "unique",
    "unique_share",
    "models_ms",
    "bricks_ms",
    "speedup",
    "normalised",
    "lowest",
    "highest",
]


def times_for(subject: Subject, records: Records) -> dict[str, Record]:
    """By digest, the times of this model's kind of bricks: forward, or with their backward pass."""
    return times_of(records, subject.algorithm, MODEL)


def constructions(
    subject: Subject, records: Records
) -> Iterator[tuple[Decomposition, Constructed]]:
    """Bricks and latency of every rule that there are bricks for."""
    times = times_for(subject, records)
    for cut in subject.decompositions.values():
        for each in _sequential(subject, cut, times):
            yield cut, each
        yield cut, along_critical_path(cut, times)
    for cut in subject.modular.values():
        for each in _sequential(subject, cut, times):
            yield cut, replace(each, rule=OF_MODULES.format(each.rule))
    if subject.pairs:
        single = subject.decompositions[1]
        yield single, overlapping(single, subject.pairs, times)


def _sequential(subject: Subject, cut: Decomposition, times: Times) -> list[Constructed]:
    """One brick after another: as a sum, and on a GPU as the replay of their timelines, on a CPU as
    the sum in which repeated bricks find their code in the caches.
    """
    second = replayed if subject.model.device == "cuda" else repeating
    other = second(cut, times)
    return [summed(cut, times), *([] if other is None else [other])]


def model_table(subjects: Sequence[Subject], records: Records) -> pd.DataFrame:
    """One row for each model, granularity and rule (MODEL_COLUMNS); `*_ci_ms` are half widths.

    `measured_ms` is the model as its user calls it, `graph_ms` its operators without the Python
    between them. `normalised` is constructed over measured, `normalised_graph` over the graph. On a
    GPU, `device_ms` is how long the model's operations keep it, and `constructed_device_ms` how
    long those of its bricks do, however long the host takes to launch them.
    """
    rows = [
        {**_model_facts(subject, records), **_row(subject, cut, each, records)}
        for subject in subjects
        for cut, each in constructions(subject, records)
    ]
    table = pd.DataFrame(rows, columns=MODEL_COLUMNS)
    ratio = table["constructed_ms"] / table["measured_ms"]
    relative = np.hypot(
        table["constructed_ci_ms"] / table["constructed_ms"],
        table["measured_ci_ms"] / table["measured_ms"],
    )
    return table.assign(
        normalised=ratio,
        normalised_ci=ratio * relative,
        normalised_graph=table["constructed_ms"] / table["graph_ms"],
    )


def _model_facts(subject: Subject, records: Records) -> dict[str, Any]:
    known: dict[str, Any] = {"model": subject.model.name, "layers": len(subject.model.parts)}
    known |= {"measured_ms": nan, "measured_ci_ms": nan, "graph_ms": nan, "device_ms": nan}
    if subject.whole is None:
        return known
    digest = subject.whole.layer.digest
    measured = times_of(records, subject.whole_algorithm, MODEL).get(digest)
    graph = times_for(subject, records).get(digest)
    if measured is not None:
        known["measured_ms"] = measured.mean_ns / 1e6
        known["measured_ci_ms"] = measured.half_width_ns / 1e6
        known["device_ms"] = busy_ns(measured) / 1e6
    if graph is not None:
        known["graph_ms"] = graph.mean_ns / 1e6
    return known


def _row(
    subject: Subject, cut: Decomposition, each: Constructed, records: Records
) -> dict[str, Any]:
    times = times_for(subject, records)
    digests = [brick.layer.digest for brick in cut.bricks]
    device_ns = [busy_ns(times[digest]) if digest in times else nan for digest in digests]
    return {
        "granularity": cut.granularity,
        "rule": each.rule,
        "bricks": len(digests),
        "unique": len(set(digests)),
        "constructed_ms": each.latency_ns / 1e6,
        "constructed_ci_ms": each.half_width_ns / 1e6,
        "covered": each.covered,
        "constructed_device_ms": sum(device_ns) / 1e6,
    }


def pool_table(subjects: Sequence[Subject], records: Records) -> pd.DataFrame:
    """One row for each granularity (POOL_COLUMNS): how much of the models is unique, how much
    faster the unique bricks are run than the models, and how near the sums are: geometric mean,
    lowest and highest normalised latency.
    """
    models = model_table(subjects, records)
    models = models[models["rule"] == SUM]
    rows = []
    for granularity, mine in models.groupby("granularity", sort=True):
        counts, once_ns = _unique(subjects, records, int(str(granularity)))
        ratio = mine["normalised"].dropna()
        whole_ms = float(mine["measured_ms"].sum(min_count=len(mine)))
        rows.append(
            {
                "granularity": granularity,
                "models": len(mine),
                "bricks": sum(counts.values()),
                "unique": len(counts),
                "unique_share": len(counts) / sum(counts.values()),
                "models_ms": whole_ms,
                "bricks_ms": once_ns / 1e6,
                "speedup": whole_ms * 1e6 / once_ns if once_ns else nan,
                "normalised": float(np.exp(np.log(ratio).mean())) if len(ratio) else nan,
                "lowest": ratio.min(),
                "highest": ratio.max(),
            }
        )
    return pd.DataFrame(rows, columns=POOL_COLUMNS)


def _unique(
    subjects: Sequence[Subject], records: Records, granularity: int
) -> tuple[Counter[tuple[str, str]], float]:
    """How often each brick occurs, and the sum of their times, each once, in ns; NaN if one has
    none.
    """
    counts: Counter[tuple[str, str]] = Counter()
    times: dict[tuple[str, str], float] = {}
    for subject in subjects:
        known = times_for(subject, records)
        for brick in subject.decompositions[granularity].bricks:
            key = (brick.layer.digest, subject.algorithm)
            counts[key] += 1
            if key not in times:
                record = known.get(key[0])
                times[key] = nan if record is None else record.mean_ns
    return counts, sum(times.values())
