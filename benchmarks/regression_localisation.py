"""Whether the first sentence of a comparison names the layer that was mutated; regression_power.py
starts this.

Twenty mutations of a small model, and on a GPU three more that leave every layer as it is and give
it other kernels. The output is written after each mutation, so that what was found stays if the
time runs out.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from mutations import MUTATIONS, Mutation, Net, mutated
from torch.nn.attention import SDPBackend, sdpa_kernel

import xsp
from xsp.analysis.spans.sequence import kernel_sequence


def localised(device: str, output: Path) -> None:
    """A row for each mutation: what it is, whether its layer is named, the sentence."""

    def profiled(net: torch.nn.Module) -> xsp.Profile:
        with torch.no_grad():
            return xsp.measure(net.to(device), x, iterations=3, warmup=2, progress=False)

    torch.manual_seed(0)
    net, x = Net().eval(), torch.randn(16, 3, 32, 32, device=device)
    before = profiled(net)
    rows: list[dict[str, Any]] = []
    kernels = kernel_mutations() if device == "cuda" else []
    for mutation in (*MUTATIONS, *kernels):
        after = profiled(mutated(net, mutation))
        said = xsp.compare(before, after).sentences[0]
        row = {
            "mutation": mutation.what,
            "kernels": mutation in kernels,
            "named": mutation.named in said,
        }
        # Another setting need not give another kernel at this size; then there is nothing to find.
        row["changed"] = mutation not in kernels or kernel_names(before) != kernel_names(after)
        rows.append(row | {"sentence": said})
        output.write_text(json.dumps(rows))


def kernel_names(prof: xsp.Profile) -> list[str]:
    """Kernels of one run in the order of their launches."""
    return [str(name) for name in kernel_sequence(prof._capture.tables)["name"]]


def kernel_mutations() -> list[Mutation]:
    """Changes that leave every layer as it is and give it other kernels."""

    def without_cudnn(net: Net) -> None:
        layer: Any = net.stem[0]
        forward = layer.forward

        def other(x: torch.Tensor) -> torch.Tensor:
            with torch.backends.cudnn.flags(enabled=False):
                output: torch.Tensor = forward(x)
                return output

        layer.forward = other

    def math_attention(net: Net) -> None:
        attention: Any = net.blocks[1].attention
        mixed = attention.mixed

        def other(*qkv: torch.Tensor) -> torch.Tensor:
            with sdpa_kernel(SDPBackend.MATH):
                output: torch.Tensor = mixed(*qkv)
                return output

        attention.mixed = other

    def tf32(net: Net) -> None:
        mlp: Any = net.blocks[2].mlp
        layer, forward = mlp.up, mlp.up.forward

        def other(x: torch.Tensor) -> torch.Tensor:
            torch.backends.cuda.matmul.allow_tf32 = True
            try:
                output: torch.Tensor = forward(x)
                return output
            finally:
                torch.backends.cuda.matmul.allow_tf32 = False

        layer.forward = other

    return [
        Mutation("convolution without cuDNN", "stem.0", without_cudnn),
        Mutation("attention with the math backend", "blocks.1.attention", math_attention),
        Mutation("one product in TF32", "blocks.2.mlp.up", tf32),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cuda", "cpu"], required=True)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    localised(options.device, options.output)


if __name__ == "__main__":
    main()
