"""The tour that `make demo` gives: profile ResNet-50 on this machine, then open captures recorded on an H100.

Run it (`python examples/demo.py`). It writes the capture, its table and reports to demo-output/.
"""

from __future__ import annotations

import argparse
import html
import sys
from pathlib import Path

import torch

import xsp
from xsp.render.text import profile_text

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


def page(prof: xsp.Profile) -> str:
    """The notebook's view of a profile as a page of its own; it loads nothing from the network."""
    head = f'<meta charset="utf-8"><title>{html.escape(prof.name)}</title>'
    return f'<!doctype html>\n<html lang="en">{head}\n{prof._repr_html_()}\n</html>\n'


def main() -> None:
    """Profile, open, write, and say what was written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("demo-output"), help="folder for what the demo writes")
    parser.add_argument("--image", type=int, default=resnet50.IMAGE, help="height and width of the live model's images")
    parser.add_argument("--budget-s", type=float, default=15.0, help="seconds for the live model's rounds")
    parser.add_argument("--rows", type=int, default=16, help="lines of each table")
    arguments = parser.parse_args()
    output: Path = arguments.output
    output.mkdir(parents=True, exist_ok=True)

    print("== ResNet-50, measured here and now\n")
    prof = live(arguments.image, arguments.budget_s)
    print(profile_text(prof, rows=arguments.rows))
    written = [prof.save(output / "resnet50.xsp"), output / "resnet50.csv", output / "resnet50.html"]
    prof.tree().to_csv(written[1], index=False)
    written[2].write_text(page(prof), encoding="utf-8")

    for name, what in BUNDLED.items():
        print(f"\n== {what}: a capture recorded on an H100, opened here\n")
        prof = xsp.load(CAPTURES / f"{name}.xsp")
        print(profile_text(prof, rows=arguments.rows))
        written.append(output / f"{name}.html")
        written[-1].write_text(page(prof), encoding="utf-8")

    print("\n== Written\n")
    for path in written:
        print(f"{path}  {path.stat().st_size / 1000:.0f} kB")
    print(f"\nOpen {output / 'h100_resnet50.html'} in a browser, or run: xsp report {output / 'resnet50.xsp'}")


if __name__ == "__main__":
    main()
