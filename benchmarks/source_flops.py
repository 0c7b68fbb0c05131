"""FLOPs of products and convolutions by layer: of compiled code, and of its program run eagerly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from xsp.analysis.spans.sequence import kernel_sequence
from xsp.profiles import Profile


def eager_flops(prof: Profile) -> pd.Series[float]:
    """FLOPs of library calls by layer and phase."""
    tables = prof._capture.tables
    sequence = kernel_sequence(tables)
    called = sequence[sequence["call_span"] >= 0].drop_duplicates("call_span")
    layers = tables["layers"].iloc[called["layer"]]
    flops = tables["library_calls"]["flops"].iloc[called["library_call"]]
    return _by_layer(layers["name"], layers["phase"], flops)


def source_flops(prof: Profile) -> pd.Series[float]:
    """The same by source layer, of what compiled graphs launched. A launch of several layers is
    none of a library's.
    """
    tables = prof._capture.tables
    owners = tables["compiled_origins"].query("share > 0.999").set_index("launch")["layer"]
    kernels = tables["compiled_kernels"]
    led = kernels[kernels["launch"].isin(owners.index)]
    phases = tables["compiled_launches"]["phase"].iloc[led["launch"]]
    return _by_layer(owners.reindex(led["launch"]), phases, led["flops"])


def _by_layer(
    layer: pd.Series[str], phase: pd.Series[str], flops: pd.Series[int]
) -> pd.Series[float]:
    table = pd.DataFrame({"layer_name": layer.to_numpy(), "phase": phase.to_numpy()})
    table["flops"] = flops.fillna(0).to_numpy(dtype=float)
    sums = table.groupby(["layer_name", "phase"])["flops"].sum()
    return sums[sums > 0]


def compared_flops(compiled: Profile, eager: Profile) -> dict[str, Any]:
    """In how many layers and phases compiled code computes what it does eagerly, to 0.1 %; with
    some of those where it does not.
    """
    expected = eager_flops(eager)
    if "compiled_kernels" not in compiled._capture.tables:
        return {"layers": len(expected), "equal": 0, "differ": ["no compiled kernels"]}
    both = pd.DataFrame({"eager": expected, "compiled": source_flops(compiled)}).fillna(0.0)
    equal = np.isclose(both["eager"], both["compiled"], rtol=1e-3)
    differ = [
        f"{row.layer_name}, {row.phase}: {row.eager:.4g} eagerly, {row.compiled:.4g} compiled"
        for row in both[~equal].reset_index().itertuples()
    ]
    return {"layers": len(both), "equal": int(equal.sum()), "differ": differ[:12]}
