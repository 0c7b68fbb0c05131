"""How fast could it be: every layer of a small network through every algorithm of this machine.

Run it (`python examples/bound.py`), or hand any target to `xsp bound`. It prints the lower bound by
granularity, the layers with the most to gain, and what to try. Takes under a minute on two cores.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

import xsp
from xsp.bounds.granularities import LIBRARY
from xsp.bounds.running import device_of, measure_missing
from xsp.bounds.wanted import wanted_of
from xsp.database.store import Store
from xsp.errors import XspError
from xsp.graphs.from_export import graph_of


class Branches(nn.Module):
    """A stem, two branches that could run side by side, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32))
        self.act = nn.ReLU()
        self.narrow = nn.Conv2d(32, 64, 1)
        self.wide = nn.Conv2d(32, 64, 3, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Map (N, 3, H, W) to (N, 10)."""
        seen = self.act(self.stem(images))
        joined = self.act(self.narrow(seen) + self.wide(seen))
        return self.head(self.pool(joined).flatten(1))  # type: ignore[no-any-return]


def main() -> None:
    """Measure the model, then its layers, and say what is left to gain."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--image", type=int, default=96, help="height and width of the images")
    parser.add_argument("--budget-s", type=float, default=8.0, help="seconds for the rounds")
    parser.add_argument("--device", default=None, help="cuda or cpu; the GPU where there is one")
    parser.add_argument("--database", type=Path, default=None, help="a temporary one by default")
    arguments = parser.parse_args()
    device = device_of(arguments.device)
    model = Branches().eval().to(device)
    images = torch.rand(4, 3, arguments.image, arguments.image, device=device)

    graph = graph_of(model, (images,))
    print(f"{len(graph)} layers, {len(set(graph.keys))} unique, read from {graph.source}")
    with torch.no_grad():
        prof = xsp.measure(model, images, budget_s=arguments.budget_s, progress=False)
    with tempfile.TemporaryDirectory() as folder:
        place = arguments.database or Path(folder) / "layers.sqlite"
        with Store(place) as store:
            done = measure_missing(store, wanted_of([graph], device), device)
            print(f"{done.algorithms} algorithms timed in {done.seconds:.1f} s")
            bound = xsp.analysis.lower_bound(prof, store, graph=graph)
    print(f"measured {prof.latency_ms:.3f} ms, Benanza Ratio {bound.ratio:.2f}\n")
    print(bound.summary.to_string(index=False))
    print(f"on the critical path: {', '.join(bound.bounds[LIBRARY].path)}")
    for doubt in bound.doubts:
        print(f"doubt: {doubt}")
    try:
        for finding in prof.findings(bound)[:5]:
            print(f"Q{finding.question} {finding.kind}: {finding.sentence()}")
    except XspError as error:
        print(error)


if __name__ == "__main__":
    main()
