"""The tour that `make demo` gives: profile ResNet-50 on this machine, then open captures recorded
on an H100.

Run it (`python examples/demo.py`). It writes the capture, its table, reports and traces to
demo-output/.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

import xsp
from xsp.report.text import profile_text

sys.path.insert(0, str(Path(__file__).parent))
import resnet50

CAPTURES = Path(__file__).parent / "captures"
BUNDLED = {
    "h100_resnet50": "ResNet-50 inference, 32 images, float16",
    "h100_transformer": "GPT-2 inference, one prompt of 64 tokens, float16",
    "h100_train_step": "ResNet-50 training step, 32 images, autocast to float16",
}


def live(image: int, budget_s: float) -> xsp.Profile:
    """ResNet-50 at every level that can be traced on this machine."""
    model, inputs = resnet50.target(image=image)
    with torch.no_grad(), xsp.profile(model, budget_s=budget_s) as prof:
        model(*inputs)
    return prof


def reported(prof: xsp.Profile, stem: Path) -> list[Path]:
    """The report, which opens in a browser, and a trace of one run for ui.perfetto.dev."""
    return [prof.to_html(stem.with_suffix(".html")), prof.to_perfetto(stem.with_suffix(".pftrace"))]


def main() -> None:
    """Profile, open, write, and say what was written."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--output", type=Path, default=Path("demo-output"), help="folder for what the demo writes"
    )
    parser.add_argument(
        "--image",
        type=int,
        default=resnet50.IMAGE,
        help="height and width of the live model's images",
    )
    parser.add_argument(
        "--budget-s", type=float, default=15.0, help="seconds for the live model's rounds"
    )
    parser.add_argument("--rows", type=int, default=16, help="lines of each table")
    arguments = parser.parse_args()
    output: Path = arguments.output
    output.mkdir(parents=True, exist_ok=True)

    print("== ResNet-50, measured here and now\n")
    prof = live(arguments.image, arguments.budget_s)
    print(profile_text(prof, rows=arguments.rows))
    written = [
        prof.save(output / "resnet50.xsp"),
        output / "resnet50.csv",
        *reported(prof, output / "resnet50"),
    ]
    prof.tree().to_csv(written[1], index=False)

    for name, what in BUNDLED.items():
        print(f"\n== {what}: a capture recorded on an H100, opened here\n")
        prof = xsp.load(CAPTURES / f"{name}.xsp")
        print(profile_text(prof, rows=arguments.rows))
        written += reported(prof, output / name)

    print("\n== Written\n")
    for path in written:
        print(f"{path}  {path.stat().st_size / 1000:.0f} kB")
    stem = output / "h100_resnet50"
    print(f"\nOpen {stem}.html in a browser and {stem}.pftrace in ui.perfetto.dev,")
    print(f"or run: xsp report {output / 'resnet50.xsp'}")


if __name__ == "__main__":
    main()
