"""Draw the site's pictures of a notebook and a report, light and dark, on a phone, and as an eye
with deuteranopia sees it: python docs/images/screenshots.py.

The browser is Chromium, driven by the module that the tests use. Pictures show the bundled capture
of an H100. Needs Pillow, which reduces their colours: the files stay below 150 kB.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from PIL import Image

import xsp

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
CAPTURE = ROOT / "examples" / "captures" / "h100_resnet50.xsp"
WIDTH = 1280
COLORS = 256
_DRAWN = "document.documentElement.dataset.read === 'yes'"

sys.path.insert(0, str(ROOT / "tests"))
from browser import Tab, chromium  # noqa: E402 # after the path is known


def main() -> None:
    """Write six PNG files beside this one."""
    prof = xsp.load(CAPTURE)
    with tempfile.TemporaryDirectory() as folder, chromium(Path(folder) / "browser") as tab:
        notebook = Path(folder) / "notebook.html"
        head = '<!doctype html><meta charset="utf-8">'
        head += '<meta name="color-scheme" content="light dark">'
        notebook.write_text(f"{head}<body style='margin: 0'>{prof._repr_html_()}", encoding="utf-8")
        report = prof.to_html(Path(folder) / "report.html")
        for dark in (False, True):
            look = "dark" if dark else "light"
            tab.dark(dark)
            _draw(tab, notebook, 900, "true", HERE / f"notebook-{look}.png")
            _draw(tab, report, 1440, _DRAWN, HERE / f"report-{look}.png")
        tab.dark(False)
        _draw(tab, report, 900, _DRAWN, HERE / "report-phone.png", width=390)
        tab.call("Emulation.setEmulatedVisionDeficiency", type="deuteranopia")
        _draw(tab, report, 1440, _DRAWN, HERE / "report-deuteranopia.png")


def _draw(tab: Tab, page: Path, height: int, ready: str, picture: Path, width: int = WIDTH) -> None:
    size = {"width": width, "height": height}
    tab.call("Emulation.setDeviceMetricsOverride", **size, deviceScaleFactor=1, mobile=False)
    tab.open(page)
    tab.wait(ready)
    tab.evaluate("new Promise((done) => setTimeout(done, 800))")
    tab.screenshot(picture)
    full = Image.open(picture).convert("RGB")
    few = full.quantize(COLORS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    few.save(picture, optimize=True)


if __name__ == "__main__":
    main()
