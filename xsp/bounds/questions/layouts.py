"""Question 6: tensors turned from one layout to another, the other layout, and tensor cores."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase

from xsp.bounds.asker import Asker
from xsp.bounds.finding import Finding
from xsp.bounds.granularities import FUSED, TENSOR_CORES
from xsp.bounds.lower_bound import LowerBound
from xsp.bounds.otherwise import KERNEL
from xsp.bounds.questions.algorithms import FASTER

_CONVERSIONS = ("*nchwToNhwc*", "*nhwcToNchw*", "*NCHWToNHWC*", "*NHWCToNCHW*")
_MATTERS = 0.9
"""Share of the layers' time from which on narrower types are worth their errors."""


def conversions(asker: Asker) -> Iterator[Finding]:
    """Kernels in which cuDNN turns tensors around: in a profile, not in the ideal."""
    found = {
        pattern: [name for name in asker.kernels if fnmatchcase(name, pattern)]
        for pattern in _CONVERSIONS
    }
    patterns = [f"{KERNEL}{pattern}" for pattern, kernels in found.items() if kernels]
    if not patterns:
        return
    kernels = [name for each in found.values() for name in each]
    layers = [name for name in asker.layers_of(kernels) if name]
    lines = asker.lines(layers)
    at = f", of layers called at {', '.join(lines)}" if lines else ""
    yield asker.finding(
        6,
        layers[0] if layers else "",
        {"gone": patterns},
        f"cuDNN turns tensors from NCHW to NHWC and back in {len(layers)} kernels of their own{at}",
        "give the model and its input channels last: model.to(memory_format=torch.channels_last)",
        lines,
    )


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
