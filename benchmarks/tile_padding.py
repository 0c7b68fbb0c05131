"""Why the hardware counts more operations than a network needs: what a tile that reaches over the
edge computes.

A matrix kernel computes whole tiles. Their sizes are in its name, the matrix's in the arguments of
the library call, so the operations that it executes can be worked out and held against what the
hardware counted for the same program (results/counters_h100.json). Needs no GPU:

    python benchmarks/tile_padding.py [--json out.json]
"""

from __future__ import annotations

import argparse
import json
import re
from math import ceil, prod
from pathlib import Path
from typing import Any

import pandas as pd

import xsp
from xsp.analysis.work.kernel_work import kernel_work

ROOT = Path(__file__).resolve().parent.parent
CAPTURE = ROOT / "examples" / "captures" / "h100_resnet50.xsp"
COUNTED = ROOT / "benchmarks" / "results" / "counters_h100.json"
FAMILIES = {
    "first layer (channels 3 to 4, depth to 64)": re.compile(
        r"image_first_layer_.*_tile16x(?P<n>\d+)x(?P<k>\d+)"
    ),
    "implicit GEMM over all images": re.compile(
        r"implicit_gemm_.*_tilesize(?P<m>\d+)x(?P<n>\d+)x(?P<k>\d+)"
    ),
    "CUTLASS, one GEMM an image": re.compile(
        r"cutlass_80_tensorop_f16_s16816gemm_f16_(?P<m>\d+)x(?P<n>\d+)_(?P<k>\d+)x"
    ),
    "nvjet, one GEMM an image": re.compile(r"nvjet_sm90_hsh_(?P<m>\d+)x(?P<n>\d+)_(?P<k>\d+)x"),
}
"""How the names of the kernels of this capture give their tiles."""


def whole(size: int, tile: int) -> int:
    """A size rounded up to whole tiles."""
    return ceil(size / tile) * tile


def executed(family: str, tile: dict[str, int], convolution: dict[str, Any]) -> float:
    """Operations of a convolution's kernel, two for each multiplication and addition, padding
    included.
    """
    (images, channels, *_), (filters, _, *window) = (convolution[name]["dims"] for name in "XW")
    pixels, taps = prod(convolution["Y"]["dims"][2:]), prod(window)
    columns = whole(filters, tile["n"])
    if family.startswith("first"):
        rows, terms = images * pixels, whole(taps * 4, tile["k"])
    elif family.startswith("implicit"):
        rows = whole(images * pixels, tile["m"])
        terms = taps * whole(channels, tile["k"])
    else:
        rows = images * whole(pixels, tile["m"])
        terms = whole(channels, tile["k"])
    return 2.0 * float(rows * columns * terms)


def convolutions(profile: xsp.Profile) -> pd.DataFrame:
    """One row per kernel of a convolution: family, flops that are needed, flops with padding."""
    work = kernel_work(profile)
    work = work[(work["library_call"] >= 0) & (work["flops"] > 0)]
    calls = profile.table("library_calls").loc[work["library_call"]]
    rows = []
    for name, flops, arguments in zip(work["name"], work["flops"], calls["arguments"], strict=True):
        operations = json.loads(arguments).get("operations")
        if not operations:
            continue
        found = ((family, pattern.search(name)) for family, pattern in FAMILIES.items())
        family, match = next(((family, match) for family, match in found if match), (None, None))
        if family is None or match is None:
            raise SystemExit(
                f"no rule for the tiles of {name!r}; this script knows the bundled ResNet-50 only"
            )
        tile = {key: int(value) for key, value in match.groupdict().items()}
        rows.append((family, flops, executed(family, tile, operations[0])))
    return pd.DataFrame(rows, columns=["family", "needed", "executed"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    table = convolutions(xsp.load(CAPTURE))
    sums = table.groupby("family", sort=False).agg(
        kernels=("needed", "size"), needed=("needed", "sum"), executed=("executed", "sum")
    )
    sums["ratio"] = (sums["executed"] / sums["needed"]).round(4)
    counted = json.loads(COUNTED.read_text())["flops"]["resnet50 batch 32"]["counters"][
        "flops_tensor"
    ]
    report = {
        "capture": CAPTURE.name,
        "families": json.loads(sums.to_json(orient="index")),
        "needed": float(table["needed"].sum()),
        "executed": float(table["executed"].sum()),
        "counted by tensor cores": counted,
        "executed / needed": round(float(table["executed"].sum() / table["needed"].sum()), 4),
        "executed / counted": round(float(table["executed"].sum() / counted), 4),
    }
    print(json.dumps(report, indent=1))
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
