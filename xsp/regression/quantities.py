"""Quantities of a profile that a budget can limit, each with the layers, library calls or kernels
that make it up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from xsp.analysis.correction.dependencies import HOST_WAITS
from xsp.analysis.layers import layer_information
from xsp.analysis.library import library_calls
from xsp.analysis.spans.ancestors import nearest
from xsp.analysis.spans.device_timeline import AFTER, BEFORE
from xsp.analysis.spans.launches import launch_of
from xsp.analysis.spans.outside import OUTSIDE_LAYERS
from xsp.analysis.spans.rungs import deepest_rung
from xsp.analysis.work.kernel_work import COUNTERS, kernel_work
from xsp.types import IntArray, Level

if TYPE_CHECKING:
    from xsp.analysis.profile_data import ProfileData


Inside = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Part:
    """What one layer has of a quantity; `inside` are the library calls or kernels it is made of,
    with their number.
    """

    layer: str
    amount: float
    inside: Inside = ()


@dataclass(frozen=True)
class Quantity:
    """A number read from a profile, what it is made of (greatest first), and half its 95 % interval
    if it has one.
    """

    value: float
    parts: tuple[Part, ...] = ()
    half_width: float | None = None


class Unknown(Exception):  # noqa: N818 - it is an answer, not an error
    """The profile does not tell: the message says why. `off` if the level was left out on
    purpose.
    """

    def __init__(self, why: str, *, off: bool = False) -> None:
        super().__init__(why)
        self.off = off


def latency_ms(prof: ProfileData) -> Quantity:
    """Unprofiled model latency, and the layers' part in it."""
    parts: Sequence[Part] = ()
    if _is_traced(prof, Level.LAYER):
        layers = layer_information(prof)
        parts = _ranked(layers["name"], layers["latency_ms"], _kernels_inside(prof))
    return Quantity(prof.latency_ms, tuple(parts), prof.latency_ci_ms)


def kernels(prof: ProfileData) -> Quantity:
    """Kernels, copies and sets of one run, as in `Profile.kernel_count`."""
    _needed(prof, Level.KERNEL)
    nodes = prof.tree().query("level == 'LAYER' and kernels > 0")
    return Quantity(
        prof.kernel_count, _ranked(nodes["name"], nodes["kernels"], _kernels_inside(prof))
    )


def library_call_count(prof: ProfileData) -> Quantity:
    """Library calls of one run."""
    _needed(prof, Level.LIBRARY)
    calls = library_calls(prof)
    by_layer = calls.groupby("layer", sort=False)["name"]
    inside = {str(layer): _counted(names) for layer, names in by_layer}
    return Quantity(len(calls), _ranked(by_layer.size().index, by_layer.size(), inside))


def allocated_bytes(prof: ProfileData) -> Quantity:
    """Bytes that the layers of one run allocate, all together; what is freed in between is not
    subtracted.
    """
    _needed(prof, Level.LAYER)
    layers = layer_information(prof)
    if not layers["allocated_bytes"].notna().any():
        raise Unknown("no layer's memory is known here: see the warnings of the profile")
    return Quantity(
        float(layers["allocated_bytes"].sum()), _ranked(layers["name"], layers["allocated_bytes"])
    )


def synchronizations(prof: ProfileData) -> Quantity:
    """Waits of the host for the device inside the model calls of one run.

    CUPTI's records of event, stream and context synchronisation; torch waits that way in `.item()`
    and `.cpu()` too. The wait for the end of the run, which is the profiler's, is not one of them.
    Of all runs the last one counts.
    """
    _needed(prof, Level.KERNEL)
    waits = _host_waits(prof)
    names = waits.groupby("layer", sort=False)["api"]
    inside = {str(layer): _counted(each) for layer, each in names}
    return Quantity(len(waits), _ranked(names.size().index, names.size(), inside))


def _host_waits(prof: ProfileData) -> pd.DataFrame:
    """The host's waits in the last run that recorded them: api (CUDA API call) and layer."""
    table, calls, api = (
        prof.table("synchronizations"),
        prof.table("model_calls"),
        prof.table("api_calls"),
    )
    last = prof.runs.loc[prof.runs["rung"] == deepest_rung({"runs": prof.runs}), "run"].max()
    table = table[(table["run"] == last) & table["kind"].isin(HOST_WAITS)]
    calls = calls[calls["run"] == last].sort_values("start_ns")
    at = (
        np.searchsorted(calls["start_ns"].to_numpy(), table["start_ns"].to_numpy(), side="right")
        - 1
    )
    before_end = table["start_ns"].to_numpy() < calls["host_end_ns"].to_numpy()[at]
    api = api[api["run"] == last]
    made = launch_of(
        table["correlation_id"].to_numpy()[before_end],
        api["correlation_id"].to_numpy(),
        api["start_ns"].to_numpy(),
    )
    names = np.append(api["name"].to_numpy(object), "wait")
    parents = np.append(api["parent"].to_numpy(), -1)
    return pd.DataFrame({"api": names[made], "layer": _layers_of(prof, parents[made])})


def _layers_of(prof: ProfileData, spans_around: IntArray) -> list[str]:
    """Name of the layer that each of these spans is or lies in; -1 lies in none."""
    spans = prof.table("raw_spans")
    is_layer = (spans["level"] == Level.LAYER).to_numpy()
    rows = nearest(spans["parent"].to_numpy(), is_layer, spans_around)
    layers = prof.table("layers")["name"].to_numpy(object)
    names = layers[spans["detail"].to_numpy()[rows]]
    return [str(name) for name in np.where(rows >= 0, names, OUTSIDE_LAYERS)]


def dram_bytes(prof: ProfileData) -> Quantity:
    """Bytes that the kernels of one run read from and write to device memory, as counted by the
    hardware.
    """
    _needed(prof, Level.KERNEL)
    work = kernel_work(prof)
    counted = work["bytes_source"] == COUNTERS
    if not counted.all() or not len(work):
        raise Unknown(
            f"hardware counters of {int((~counted).sum())} of {len(work)} kernels are missing"
        )
    work = work.assign(bytes=work["dram_read_bytes"] + work["dram_write_bytes"])
    layers = prof.table("layers")["name"].to_numpy(object)[work["layer"]]
    sums = work.groupby(layers, sort=False)["bytes"].sum()
    return Quantity(float(work["bytes"].sum()), _ranked(sums.index, sums, _kernels_inside(prof)))


def gpu_idle_share(prof: ProfileData) -> Quantity:
    """Share of the unprofiled latency in which the GPU runs nothing; parts are idle times before
    layers' kernels.
    """
    _needed(prof, Level.KERNEL)
    busy = float(prof.tree()["device_ms"].iloc[0])
    idle = max(1 - busy / prof.latency_ms, 0.0)
    timeline = prof.device_timeline()
    whole = timeline["busy_ms"].sum() + timeline["idle_before_ms"].sum()
    names = timeline["name"].where(
        timeline["name"].isin([BEFORE, AFTER]), "before " + timeline["name"]
    )
    return Quantity(idle, _ranked(names, timeline["idle_before_ms"] / whole))


def _is_traced(prof: ProfileData, level: Level) -> bool:
    levels = prof.levels.set_index("level")
    return bool(levels.loc[level.name, "status"] == "traced")


def _needed(prof: ProfileData, level: Level) -> None:
    status = prof.levels.set_index("level").loc[level.name]
    if status["status"] == "off":
        raise Unknown(f"level {level.name} is not among the levels of this test", off=True)
    if status["status"] != "traced":
        raise Unknown(f"level {level.name} is {status['status']}: {status['reason']}")


def _ranked(
    names: pd.Series[str] | pd.Index[str],
    amounts: pd.Series[Any],
    inside: dict[str, Inside] | None = None,
) -> tuple[Part, ...]:
    """Amounts summed by name, greatest first; nothing is not a part."""
    by_name = pd.Series(
        np.asarray(amounts, dtype=np.float64), index=np.asarray(names, dtype=object)
    )
    sums = by_name.groupby(level=0, sort=False).sum().sort_values(ascending=False, kind="stable")
    return tuple(
        Part(str(name), value, (inside or {}).get(str(name), ()))
        for name, value in sums[sums > 0].items()
    )


def _kernels_inside(prof: ProfileData) -> dict[str, Inside]:
    """Names of the kernels of each layer with their number, those with most device time first."""
    nodes = prof.tree()
    nodes = nodes[nodes["level"].isin(["LAYER", "KERNEL"])]
    layer = nodes["name"].where(nodes["level"] == "LAYER").ffill()
    found = nodes.assign(layer=layer)[nodes["level"] == "KERNEL"].sort_values(
        "device_ms", ascending=False
    )
    return {
        str(name): _counted(each["name"].repeat(each["kernels"].tolist()))
        for name, each in found.groupby("layer")
    }


def _counted(names: pd.Series[str]) -> Inside:
    return tuple(
        (str(name), int(number)) for name, number in names.value_counts(sort=False).items()
    )


READERS: dict[str, Callable[[ProfileData], Quantity]] = {
    "latency_ms": latency_ms,
    "kernels": kernels,
    "library_calls": library_call_count,
    "allocated_bytes": allocated_bytes,
    "synchronizations": synchronizations,
    "dram_bytes": dram_bytes,
    "gpu_idle_share": gpu_idle_share,
}
"""How each quantity that can have a budget is read."""
