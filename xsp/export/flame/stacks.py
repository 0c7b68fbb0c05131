"""The latency divided among stacks of frames: model, modules, layer, library call, kernel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from xsp.types import Level
from xsp.words.distinct import distinct_names
from xsp.words.labels import printable, short_name

if TYPE_CHECKING:
    from xsp.analysis.profile_data import ProfileData

IDLE = "(GPU idle)"
"""Frame below a node for the part of its cost in which the GPU waited for it."""

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Stacks:
    """Stacks of frames, outermost first, in the order of the run: `weights_ns` of each add up to
    the model's latency as the tree divides it. `samples` are indices into `frames`; `sources` are
    the frames' lines of the program, `path:line` or empty.
    """

    frames: list[str]
    sources: list[str]
    samples: list[list[int]]
    weights_ns: Ints


def stacks_of(prof: ProfileData) -> Stacks:
    """The leaves of `prof.tree()` as stacks. Where kernels were traced the idle time that a node
    causes is a frame of its own below it.
    """
    tree = prof.tree()
    names = _frame_names(tree)
    place = pd.Series(np.arange(len(tree)), index=tree["node"])
    above = place.reindex(tree["parent"]).fillna(-1).to_numpy(dtype=np.int64)
    paths: list[list[int]] = []
    for row, parent in enumerate(above.tolist()):
        paths.append([*(paths[parent] if parent >= 0 else []), row])
    leaves = np.flatnonzero(~tree["node"].isin(tree["parent"]).to_numpy())
    busy, idle = _parts_ns(tree)
    idle_frame = len(names)
    samples = [stack for row in leaves for stack in (paths[row], [*paths[row], idle_frame])]
    weights = np.column_stack([busy[leaves], idle[leaves]]).ravel()
    used = weights > 0
    kept = [stack for stack, is_used in zip(samples, used.tolist(), strict=True) if is_used]
    sources = [*tree["source"].fillna("").astype(str), ""]
    return Stacks([*names, IDLE], sources, kept, weights[used])


def _frame_names(tree: pd.DataFrame) -> list[str]:
    """Names below the parent's; kernels by what tells them apart."""
    kernels = distinct_names(tree.loc[tree["level"] == Level.KERNEL.name, "name"])
    by_node = dict(zip(tree["node"], tree["name"], strict=True))
    columns = (tree[name] for name in ("level", "name", "parent", "depth", "phase"))
    names = []
    for level, name, parent, depth, phase in zip(*columns, strict=True):
        outer = by_node.get(parent, "") if depth > 1 else ""
        short = kernels.get(name) or short_name(level, name, outer)
        backward = phase == "backward" and level == Level.LAYER.name
        names.append(printable(f"{short} (bwd)" if backward else short))
    return names


def _parts_ns(tree: pd.DataFrame) -> tuple[Ints, Ints]:
    """Of each row's cost the part in which the GPU works for it, and the part in which it is idle
    because of it; without a GPU all of it is the first.
    """
    cost = tree["latency_ms"].fillna(0.0).to_numpy() * 1e6
    device = tree["device_ms"].to_numpy(dtype=float) * 1e6
    busy = np.where(np.isnan(device), cost, np.minimum(np.nan_to_num(device), cost))
    total = np.rint(cost).astype(np.int64)
    busy_ns = np.rint(busy).astype(np.int64)
    return busy_ns, np.maximum(total - busy_ns, 0)
