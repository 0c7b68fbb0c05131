"""How large the reports of the bundled captures are, and how long a browser takes to open one:
python benchmarks/report_page.py. Prints JSON; the times are Chromium's own, of this machine, which
should do nothing else meanwhile.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from pathlib import Path

import xsp

ROOT = Path(__file__).parent.parent
NAMES = ("resnet50", "transformer", "train_step")
OPENINGS = 5
_LOADED = "performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd"
_READ = "document.documentElement.dataset.read === 'yes'"

sys.path.insert(0, str(ROOT / "tests"))
from browser import chromium  # noqa: E402 # after the path is known


def main() -> None:
    """Bytes, and the median time in ms until the page is there to be read, of each capture."""
    found = {}
    with tempfile.TemporaryDirectory() as folder, chromium(Path(folder) / "browser") as tab:
        for name in NAMES:
            prof = xsp.load(ROOT / "examples" / "captures" / f"h100_{name}.xsp")
            page = prof.to_html(Path(folder) / f"{name}.html")
            times = []
            for _ in range(OPENINGS):
                tab.open(page)
                times.append(float(tab.evaluate(_LOADED)))
                tab.wait(_READ)
            found[name] = {
                "bytes": page.stat().st_size,
                "opened_ms": round(statistics.median(times), 1),
            }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
