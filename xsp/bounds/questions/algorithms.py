"""Question 3: layers of which the database knows a faster algorithm than the one PyTorch takes."""

from __future__ import annotations

from collections.abc import Iterator

from xsp.bounds.asker import Asker
from xsp.bounds.finding import Finding
from xsp.bounds.lower_bound import LowerBound

LONGEST = 6
"""Layers with the most to gain that are looked at one by one."""
FASTER = 1.03
"""From how many times on another algorithm or layout is faster and not another measurement."""


def algorithms(asker: Asker, bound: LowerBound) -> Iterator[Finding]:
    """Layers of which the database knows a faster algorithm than the one that PyTorch takes."""
    table = bound.layers.dropna(subset=["bound_ms", "default_ms", "measured_ms"])
    alone = table[~table["owner"].duplicated(keep=False)]
    times = alone["default_ms"] / alone["bound_ms"]
    slower = alone.assign(times=times, lost=alone["measured_ms"] * (1 - 1 / times))
    slower = slower[slower["times"] > FASTER].nlargest(LONGEST, "lost")
    for row in slower.to_dict("records"):
        name = str(row["owner"])
        yield asker.finding(
            3,
            name,
            {"faster": {name: float(row["times"])}},
            f"{row['default_ms'] * 1e3:.1f} µs alone, {row['bound_ms'] * 1e3:.1f} with "
            f"{row['algorithm']}",
            _how_to_choose(str(row["operator"]), str(row["algorithm"]), name),
        )
    if len(slower) > 1:
        yield asker.finding(
            3,
            f"{len(slower)} layers",
            {"faster": dict(zip(slower["owner"], slower["times"].astype(float), strict=True))},
            "each of them with the fastest algorithm known",
            'have algorithms tried out: torch.compile(model, mode="max-autotune")'
            + ("" if asker.on_cpu else ", or torch.backends.cudnn.benchmark = True"),
        )


def _how_to_choose(operator: str, algorithm: str, name: str) -> str:
    if operator == "attention":
        kernel = algorithm.removeprefix("attention ")
        return f"{name}: choose the {kernel} kernel with torch.nn.attention.sdpa_kernel"
    if algorithm == "ATen":
        return f"{name}: switch oneDNN off around it, torch.backends.mkldnn.flags(enabled=False)"
    if algorithm == "oneDNN":
        return f"{name}: see that oneDNN is on (torch.backends.mkldnn.enabled)"
    if operator == "convolution":
        return f"{name}: have cuDNN try its plans, torch.backends.cudnn.benchmark = True"
    return f'{name}: have matrix products tuned, torch.compile(model, mode="max-autotune")'
