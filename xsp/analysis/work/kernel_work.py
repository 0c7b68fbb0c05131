"""What each kernel did: operations, memory traffic and occupancy, counted by the hardware or else
worked out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from xsp.analysis.memo import once_per_profile
from xsp.analysis.spans.sequence import SEQUENCE_TABLES, kernel_sequence
from xsp.analysis.work.call_work import call_work
from xsp.analysis.work.counters import counted_work
from xsp.analysis.work.layer_work import layer_work
from xsp.analysis.work.occupancy import theoretical_occupancy
from xsp.errors import XspError
from xsp.types import Tables

if TYPE_CHECKING:
    from xsp.analysis.profile_data import ProfileData

COUNTERS, ANALYTIC = "counters", "analytic"
_FLOPS = ["flops", "flops_fp64", "flops_fp32", "flops_fp16", "flops_tensor"]
_DRAM = ["dram_read_bytes", "dram_write_bytes"]
COLUMNS = [
    "position",
    "kernel",
    "name",
    "layer",
    "library_call",
    "duration_ns",
    "duration_ci_ns",
    *_FLOPS,
    *_DRAM,
    "l2_bytes",
    "occupancy",
    "precision",
    "flops_unknown",
    "flops_source",
    "bytes_source",
    "occupancy_source",
]


@once_per_profile
def kernel_work(profile: ProfileData) -> pd.DataFrame:
    """One row per position of the canonical kernel sequence (`xsp.analysis.spans.sequence`), copies
    and sets left out.

    Columns: position, kernel (row of `kernels`), name, layer (row of `layers`), library_call (row
    of `library_calls`, -1 for none), duration_ns, duration_ci_ns; flops and of these flops_fp64,
    flops_fp32, flops_fp16 (on the CUDA cores) and flops_tensor; dram_read_bytes, dram_write_bytes,
    l2_bytes; occupancy (0 to 1); precision of most operations ("fp64", "fp32", "tf32", "fp16",
    "bf16", "fp8", "int8", "" where there are none or it is not known); flops_unknown (whether the
    kernel may have operations that nothing tells: no kernel of its layer has known ones);
    flops_source, bytes_source and occupancy_source ("counters", "analytic", "" where nothing is
    known). NaN where unknown.

    Analytic: the FLOPs and operand bytes of a library call, or else those of the layer, belong to
    its longest kernel; occupancy is the theoretical one. docs/analyses.md has the rules and their
    limits.
    """
    tables = profile.raw_tables(*SEQUENCE_TABLES)
    environment = profile.environment
    sequence = kernel_sequence(tables)
    work = sequence.join(_estimated(tables, sequence, environment))
    work["l2_bytes"] = np.nan
    work["occupancy"] = theoretical_occupancy(
        tables["kernels"].loc[work["kernel"]],
        environment.get("compute_capability"),
        environment.get("multiprocessors"),
    )
    for what, column in (
        ("flops", "flops"),
        ("bytes", "dram_read_bytes"),
        ("occupancy", "occupancy"),
    ):
        work[f"{what}_source"] = np.where(work[column].notna(), ANALYTIC, "")
    counters = counters_of(profile)
    if counters is not None:
        work = _with_counters(work, counters, tables["kernels"])
    return work.assign(flops_unknown=_unknown(work))[COLUMNS]


def _unknown(work: pd.DataFrame) -> pd.Series[bool]:
    """Kernels that only prepare or finish another one's work have no FLOPs of their own, so that
    a layer is known where one of its kernels is.
    """
    is_known = work["flops"].notna()
    return ~is_known.groupby(work["layer_span"]).transform("any").astype(bool)


def counters_of(profile: ProfileData) -> pd.DataFrame | None:
    """The capture's table of hardware counters, None where none were collected."""
    try:
        table = profile.table("counters")
    except XspError:
        return None
    return table if len(table) else None


def _with_counters(
    work: pd.DataFrame, counters: pd.DataFrame, kernels: pd.DataFrame
) -> pd.DataFrame:
    """Counted figures in place of estimates, where the kernel that was counted is the one at that
    position.
    """
    names = kernels["name"].to_numpy(dtype=object)
    counted = (
        counted_work(counters)
        .assign(counted=names[counters["kernel"].to_numpy()])
        .set_index("position")
    )
    counted = counted.reindex(work["position"]).reset_index(drop=True)
    counted.loc[counted["counted"].to_numpy() != work["name"].to_numpy(), :] = np.nan
    result = work.copy()
    for what, decides, columns in (
        ("flops", ["flops"], [*_FLOPS, "precision"]),
        ("bytes", _DRAM, _DRAM),
        ("occupancy", ["occupancy"], ["occupancy"]),
    ):
        known = counted[decides].notna().all(axis=1).to_numpy()
        for column in columns:
            result[column] = np.where(known, counted[column], work[column])
        result[f"{what}_source"] = np.where(known, COUNTERS, work[f"{what}_source"])
    result["l2_bytes"] = counted["l2_bytes"].to_numpy(np.float64)
    return result


def _estimated(
    tables: Tables, sequence: pd.DataFrame, environment: Mapping[str, Any]
) -> pd.DataFrame:
    """Operations and bytes by library call, and by layer for kernels of layers about whose calls
    nothing is known.
    """
    calls = (
        call_work(tables["library_calls"]).reindex(sequence["library_call"]).reset_index(drop=True)
    )
    layers = layer_work(tables["layers"]).loc[sequence["layer"]].reset_index(drop=True)
    by_call = share_work(sequence, sequence["call_span"])
    by_layer = share_work(sequence, sequence["layer_span"])
    result = pd.DataFrame(index=sequence.index)
    for column in ("flops", "read_bytes", "write_bytes"):
        own = calls[column] * by_call
        settled = own.notna().groupby(sequence["layer_span"]).transform("any")
        result[column] = own.where(settled, layers[column] * by_layer).astype(np.float64)
        if column == "flops":
            precision = calls["precision"].where(
                settled & (calls["precision"] != ""), layers["precision"]
            )
            product = calls["is_product"].where(settled, layers["is_product"]).astype(bool)
    worked_in = precision.where(result["flops"] > 0, "").fillna("")
    names, is_product = sequence["name"].to_numpy(object), product.to_numpy(bool)
    return _by_unit(
        result,
        resolve_precision(worked_in.to_numpy(object), is_product, names, environment),
        is_product,
    )


def _by_unit(
    estimate: pd.DataFrame, precision: npt.NDArray[Any], product: npt.NDArray[np.bool_]
) -> pd.DataFrame:
    """Operations split by the unit that computes them: products of less than fp32 on tensor cores,
    else on cores.
    """
    flops = estimate["flops"].to_numpy()
    unit = np.where(
        product & np.isin(precision, ["tf32", "fp16", "bf16", "fp8", "int8"]), "tensor", precision
    )
    columns = {"flops": flops}
    for name in ("fp64", "fp32", "fp16", "tensor"):
        columns[f"flops_{name}"] = np.where(
            np.isnan(flops), np.nan, np.where(unit == name, flops, 0.0)
        )
    columns["dram_read_bytes"] = estimate["read_bytes"].to_numpy()
    columns["dram_write_bytes"] = estimate["write_bytes"].to_numpy()
    return pd.DataFrame({**columns, "precision": precision}, index=estimate.index)


_HELPERS = re.compile(
    r"nchwToNhwc|nhwcToNchw|splitK_?reduce|convertTensor|computeOffsets|transpose_readWrite|cask_trt::|addPadding|"
    r"scalePackedTensor|reduce_1Block|flip_filter",
    re.IGNORECASE,
)
"""Kernels of a library call that prepare or finish another kernel's work: layout changes, sums of
partial results.
"""


def share_work(sequence: pd.DataFrame, group: pd.Series[int]) -> npt.NDArray[np.float64]:
    """Each kernel's share of its group's work, NaN for kernels that have none and for group -1.

    All of it belongs to the kernel that takes longest, helpers (layout changes, sums of partial
    results) coming last; where that kernel was launched several times, as by every step of a
    recurrent network or for the chunks of a list of tensors, shares are by duration.
    """
    names = sequence["name"]
    distinct = pd.Series({name: bool(_HELPERS.search(name)) for name in names.unique()}, dtype=bool)
    launches = pd.DataFrame(
        {
            "group": group,
            "helper": names.map(distinct).astype(bool),
            "ns": sequence["duration_ns"],
            "name": names,
        }
    )
    launches["ns"] = launches.groupby(["group", "name"])["ns"].transform("sum")
    order = launches.sort_values(["helper", "ns"], ascending=[True, False], kind="stable")
    main = order.drop_duplicates("group").set_index("group")["name"]
    mine = (group.map(main) == names).to_numpy() & (group >= 0).to_numpy()
    duration = sequence["duration_ns"].where(mine).clip(lower=1.0)
    return np.asarray(duration / duration.groupby(group).transform("sum"), dtype=np.float64)


_TF32_KERNEL = re.compile(r"tf32|s1688(?!.*f16)", re.IGNORECASE)
_FP32_KERNEL = re.compile(
    r"sgemm|simt|ffma|_fp32_|f32f32_f32f32|scudnn|cgemm|depthwise", re.IGNORECASE
)


def resolve_precision(
    precision: npt.NDArray[Any],
    product: npt.NDArray[np.bool_],
    names: npt.NDArray[Any],
    environment: Mapping[str, Any],
) -> npt.NDArray[Any]:
    """`tf32` in place of `fp32` for products that TF32 computes: by the kernel's name, else by
    PyTorch's switches.

    Without a name that tells, cuDNN's switch is taken to be on where a capture does not have it, as
    is PyTorch's default; GPUs before compute capability 8.0 have no TF32.
    """
    if float(environment.get("compute_capability", 0)) < 8.0:
        return precision
    distinct = {name: _tf32(str(name), environment) for name in set(names.tolist())}
    fast = np.array([distinct[name] for name in names.tolist()], dtype=bool)
    return np.where((precision == "fp32") & product & fast, "tf32", precision).astype(object)


def _tf32(name: str, environment: Mapping[str, Any]) -> bool:
    if _TF32_KERNEL.search(name):
        return True
    if _FP32_KERNEL.search(name):
        return False
    if re.search(r"fprop|dgrad|wgrad|cudnn|conv", name):
        return bool(environment.get("cudnn_allow_tf32", True))
    return bool(environment.get("allow_tf32", False))
