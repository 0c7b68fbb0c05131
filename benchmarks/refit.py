"""Gives captures the costs that this version fits, so that opening them fits nothing.

    python benchmarks/refit.py examples/captures/*.xsp ...

To be run on the bundled captures when `FIT_VERSION` (xsp/analysis/correction/of_capture.py) rises.
Only the manifest's `correction` changes; tables stay as they are, byte for byte.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import xsp
from xsp.capture.file import replace_meta


def main(paths: Sequence[str]) -> None:
    for path in paths:
        prof = xsp.load(path)
        replace_meta(path, prof._capture_with_fit.meta)
        print(path)


if __name__ == "__main__":
    main(sys.argv[1:])
