"""Draw terminal.svg, the picture in the README: python docs/images/terminal.py."""

from __future__ import annotations

import io
import re
from pathlib import Path

from rich.console import Console

import xsp
from xsp.cli.report import print_profile

HERE = Path(__file__).parent
CAPTURE = HERE.parent.parent / "examples" / "captures" / "h100_resnet50.xsp"


def main() -> None:
    """Record what `xsp report` prints and save it as an image."""
    console = Console(
        record=True,
        width=112,
        file=io.StringIO(),
        force_terminal=True,
        color_system="truecolor",
    )
    print_profile(xsp.load(CAPTURE), console, rows=26)
    drawing = console.export_svg(title=f"xsp report {CAPTURE.name}")
    # The fonts that rich names would be fetched from the network.
    drawing = re.sub(r"\s*@font-face\s*{.*?}", "", drawing, flags=re.DOTALL)
    drawing = drawing.replace("Fira Code, monospace", "ui-monospace, Menlo, Consolas, monospace")
    (HERE / "terminal.svg").write_text(drawing, encoding="utf-8")


if __name__ == "__main__":
    main()
