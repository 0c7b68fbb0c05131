"""The latency table of a capture that is larger than memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd

from xsp.analysis.correction import corrected_spans, correction_of, most_costs
from xsp.analysis.correction.corrected import typical_latencies
from xsp.analysis.correction.of_capture import Correction
from xsp.analysis.correction.recordings import RecordingsOfParts
from xsp.analysis.spans.chains import ChainNames, Chains, chains_of, joined
from xsp.analysis.spans.hierarchy import hierarchy
from xsp.analysis.spans.run_parts import SPANS_OF_PART, Ints, cuts_of
from xsp.analysis.spans.run_sums import run_sums, stacked
from xsp.analysis.spans.tree import table_of
from xsp.capture.on_disk import CaptureOnDisk


def tree_from_file(
    path: str | os.PathLike[str], *, pooled: bool = False, max_bytes: int | None = None
) -> pd.DataFrame:
    """`Profile.tree` of a saved capture without reading it whole: the same numbers, from a few runs
    at a time. It takes the memory of half a million spans, or of one round if that has more.

    `max_bytes` limits each part, as in `load`. Raises CaptureError as `load` does.
    """
    with CaptureOnDisk(path, max_bytes) as capture:
        runs = capture.tables["runs"]
        events = capture.events_by_run("spans")
        cuts = cuts_of(runs, events, SPANS_OF_PART)
        parts = partial(capture.parts, cuts)
        chains = _chains(capture, cuts)
        calls = capture.events_by_run("api_calls")
        recordings = RecordingsOfParts(runs, (events + calls).sum(axis=1), parts)
        correction = correction_of(capture.meta.get("correction"), capture.tables, recordings)
        name = str(capture.meta["name"])
        tree = hierarchy(capture.tables, name, apart=not pooled, chains=chains)
        most = None if correction is None else most_costs(capture.tables, correction.costs)
        sums = []
        for tables, corrected in _corrected(parts(), correction, recordings):
            placed = replace(tree, of_span=tree.of_spans(tables["spans"], chains))
            sums.append(run_sums(placed, tables, corrected, most))
        is_corrected = correction is not None and correction.holds
        return table_of(tree, runs, stacked(sums), is_corrected=is_corrected)


def _chains(capture: CaptureOnDisk, cuts: Ints) -> Chains:
    names = ChainNames.of(capture.tables)
    return joined([chains_of(part["spans"], names) for part in capture.parts(cuts, ("spans",))])


def _corrected(
    parts: Iterator[dict[str, pd.DataFrame]],
    correction: Correction | None,
    recordings: RecordingsOfParts,
) -> Iterator[tuple[dict[str, pd.DataFrame], pd.DataFrame | None]]:
    """Each part with its corrected times, None where corrected times are not used."""
    if correction is None or not correction.holds:
        for tables in parts:
            yield tables, None
        return
    costs, spread = correction.costs, np.asarray(correction.spread)
    typical = typical_latencies(recordings, costs)
    for tables in parts:
        yield tables, corrected_spans(tables, costs, spread, typical)
