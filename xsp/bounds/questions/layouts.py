"""Question 6, what a lower bound tells: the other layout, and tensor cores."""

from __future__ import annotations

from collections.abc import Iterator

from xsp.bounds.asker import Asker
from xsp.bounds.finding import Finding
from xsp.bounds.granularities import FUSED, TENSOR_CORES
from xsp.bounds.lower_bound import LowerBound
from xsp.bounds.questions.algorithms import FASTER

_MATTERS = 0.9
"""Share of the layers' time from which on narrower types are worth their errors."""


def layouts(asker: Asker, bound: LowerBound) -> Iterator[Finding]:
    """What the better layout of each layer would bring, by the database."""
    table = bound.layers.dropna(subset=["layout_ms", "bound_ms", "measured_ms"])
    times = table["bound_ms"] / table["layout_ms"]
    better = table[(times > FASTER) & ~table["owner"].duplicated(keep=False)]
    if not len(better):
        return
    yield asker.finding(
        6,
        str(better["owner"].iloc[0]),
        {"faster": dict(zip(better["owner"], times[better.index].astype(float), strict=True))},
        f"{len(better)} layers are faster in the other layout",
        "try the other layout: model.to(memory_format=torch.channels_last) and the input too",
    )


def tensor_cores(asker: Asker, bound: LowerBound) -> Iterator[Finding]:
    """What narrower types would bring the products of float32, by the database."""
    narrow, before = bound.bounds[TENSOR_CORES], bound.bounds[FUSED]
    share = narrow.sequential_ms / before.sequential_ms if before.sequential_ms else 1.0
    if asker.on_cpu or share > _MATTERS:
        return
    yield asker.finding(
        6,
        "",
        {"faster": {"*": 1 / share}},
        f"with TF32 or 16-bit types the layers take {share:.0%} of the time, at their best",
        "compute on tensor cores: torch.set_float32_matmul_precision('high'), or autocast to "
        "bfloat16",
    )
