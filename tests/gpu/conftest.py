"""Tests on a GPU hold CUPTI to account: launches are counted at their import slots too."""

from __future__ import annotations

import os

from xsp.levels.library.launches import VARIABLE

# Before the first scan of the loaded libraries: whether a function is watched is decided once.
os.environ.setdefault(VARIABLE, "1")
