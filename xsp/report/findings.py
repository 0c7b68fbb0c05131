"""What a profile says, in sentences: what bounds the model, and which layers, library calls and
kernels take its time.

Pure functions of a profile, shared by terminal, notebook and HTML report. The number of sentences
is fixed by the levels that were traced, not by the model.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pandas as pd

from xsp.analysis.kernels import kernel_information, kernels_by_name
from xsp.analysis.layers import layer_information, layer_latency_by_type
from xsp.analysis.library import library_by_api
from xsp.analysis.spans.device_timeline import AFTER, BEFORE
from xsp.analysis.work.kernel_work import kernel_work
from xsp.analysis.work.roofline import analytic_quantities
from xsp.words import numbers
from xsp.words.labels import shorten, telling_kernel_name

if TYPE_CHECKING:
    from xsp.analysis.profile_data import ProfileData

Finding = tuple[str, str]
"""A heading of one or two words and a sentence."""

TOP = 3
_HOST_BOUND = 0.4
"""GPU-idle share of the latency from which on the host is named first; below, the GPU does most of
the waiting for.
"""
_GPU_BOUND = 0.1
_WORTH_SAYING = 0.001
_NAME = 44
"""Characters of a name."""


def findings(prof: ProfileData, top: int = TOP) -> list[Finding]:
    """What the model is bound by, then the `top` layers, library calls and kernels with their
    shares of the latency.
    """
    found = [("bound by", bound(prof)), ("layers", layers(prof, top)), ("types", types(prof, top))]
    found += [("library", library(prof, top)), ("kernels", kernels(prof, top))]
    return [(heading, sentence) for heading, sentence in found if sentence]


def bound(prof: ProfileData) -> str:
    """Host or GPU, by the share of the latency in which the GPU is idle; of the GPU's time, memory
    or compute.
    """
    root = prof.tree().iloc[0]
    if pd.isna(root["device_ms"]):
        return "the host: no work on a GPU was traced, and all times are the host's"
    busy, latency = float(root["device_ms"]), prof.latency_ms
    idle = max(1 - busy / latency, 0.0)
    facts = f"the GPU is idle for {numbers.percent(idle)} of the latency{_gaps(prof)}"
    if idle >= _HOST_BOUND:
        who = f"the host: {facts}"
    elif idle >= _GPU_BOUND:
        who = f"the GPU, and the host with it: {facts}"
    else:
        who = f"the GPU: it is busy for {numbers.percent(1 - idle)} of the latency"
    split = _memory_or_compute(kernel_information(prof), analytic_quantities(kernel_work(prof)))
    return f"{who}. {split}" if split else who


def _gaps(prof: ProfileData) -> str:
    """Where most of the idle time is, as a share of it: the corrected timeline's total differs from
    the latency.
    """
    timeline = prof.device_timeline()
    idle = (
        timeline["idle_before_ms"]
        .groupby(timeline["name"].where(timeline["name"].isin([BEFORE, AFTER]), ""))
        .sum()
    )
    if not idle.sum():
        return ""
    where = {
        "": "between kernels",
        BEFORE: "before the first kernel",
        AFTER: "after the last kernel",
    }
    return (
        f", {numbers.percent(float(idle.max() / idle.sum()))} of that {where[str(idle.idxmax())]}"
    )


def _memory_or_compute(table: pd.DataFrame, analytic: list[str]) -> str:
    """`Of the kernels' time 70% is memory-bound, … (analytic FLOPs)`; empty where no bound is
    known.
    """
    spent = table["latency_ms"].astype(float)
    known = table["memory_bound"].notna()
    total = float(spent.sum())
    if not total or not known.any():
        return ""
    memory = table["memory_bound"].fillna(value=False).astype(bool)
    shares = (
        ("memory-bound", spent[memory].sum()),
        ("compute-bound", spent[known & ~memory].sum()),
        ("not known to be either", spent[~known].sum()),
    )
    listed = ", ".join(
        f"{numbers.percent(amount / total)} is {what}" for what, amount in shares if amount > 0
    )
    return f"Of the kernels' time {listed}" + (
        f" (analytic {' and '.join(analytic)})" if analytic else ""
    )


def layers(prof: ProfileData, top: int = TOP) -> str:
    """The slowest layers with their types."""
    table = layer_information(prof)
    if not len(table):
        return ""
    slowest = table.nlargest(top, "latency_ms")
    columns = (slowest[column] for column in ("name", "phase", "type", "share"))
    named = [_layer(*row) for row in zip(*columns, strict=True)]
    return f"{', '.join(named)}, of {len(table)}{_in_no_layer(table)}"


def _in_no_layer(table: pd.DataFrame) -> str:
    """`; 12.3% in no layer`: the rest of the latency, to which all shares add up."""
    rest = max(1 - float(table["share"].sum()), 0.0)
    return f"; {numbers.percent(rest)} in no layer" if rest >= _WORTH_SAYING else ""


def _layer(name: str, phase: str, kind: str, share: float) -> str:
    """`layer1.0.conv1 (Conv2d) 2.3%`; the name of a functional call has the type in it."""
    said = "" if "::" in name else f" ({kind})"
    backward = " (bwd)" if phase == "backward" else ""
    return f"{_short(name)}{said}{backward} {numbers.percent(share)}"


def types(prof: ProfileData, top: int = TOP) -> str:
    """The types of layers with the largest sums, with their shares of the latency."""
    table = layer_latency_by_type(prof)
    if not len(table):
        return ""
    shares = layer_information(prof).groupby("type")["share"].sum()
    largest = table.nlargest(top, "latency_ms")
    listed = _listed(largest["type"], shares[largest["type"]], largest["count"])
    return f"{listed}, of {numbers.quantity(len(table), 'type')}"


def library(prof: ProfileData, top: int = TOP) -> str:
    """The library functions whose kernels, or whose calls on the host without a GPU, take
    longest.
    """
    table = library_by_api(prof)
    if not len(table):
        return ""
    # Calls that launch nothing, such as queries and settings, take no share; on the host alone all
    # of them are shown.
    used = table[table["share"] > 0]
    largest = (used if len(used) else table).nlargest(top, "share")
    listed = _listed(largest["name"], largest["share"], largest["count"])
    return f"{listed}, of {numbers.quantity(len(table), 'function')}"


def kernels(prof: ProfileData, top: int = TOP) -> str:
    """The kernels with the largest sums, by name."""
    table = kernels_by_name(prof)
    if not len(table):
        return ""
    largest = table.nlargest(top, "latency_ms")
    names = largest["name"].map(telling_kernel_name)
    beside = (
        "; some run side by side, so that shares add up to more than 100%"
        if table["share"].sum() > 1
        else ""
    )
    return (
        f"{_listed(names, largest['share'], largest['count'])}, of "
        f"{numbers.quantity(len(table), 'name')}{beside}"
    )


def _listed(names: Iterable[str], shares: Iterable[float], counts: Iterable[int]) -> str:
    return ", ".join(
        f"{_short(name)} ×{int(count)} {numbers.percent(float(share))}"
        for name, share, count in zip(names, shares, counts, strict=True)
    )


def _short(name: str) -> str:
    return shorten(name, _NAME)
