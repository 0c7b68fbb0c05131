"""Question 6, what a profile alone tells: tensors turned from one layout to another."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase

from xsp.bounds.asker import Asker
from xsp.bounds.finding import Finding
from xsp.bounds.otherwise import KERNEL

_CONVERSIONS = ("*nchwToNhwc*", "*nhwcToNchw*", "*NCHWToNHWC*", "*NHWCToNCHW*")


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
