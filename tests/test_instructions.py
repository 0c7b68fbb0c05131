"""The layer tracer's hot paths execute as many instructions as when they were last accepted."""

from __future__ import annotations

import json
import shutil
import sys

import pytest
from instructions import KINDS, RESULT, TOLERANCE, counted

from xsp.levels.layer import hotpath

VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"


@pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not installed")
@pytest.mark.skipif(hotpath.extension() is None, reason="the extension was not built")
def test_hot_paths_have_not_grown() -> None:
    """No event costs 15 % more instructions than the committed counts say. A growth that is meant
    is accepted by `python benchmarks/instructions.py --json benchmarks/results/instructions.json`.
    """
    accepted = json.loads(RESULT.read_text()).get(VERSION)
    if accepted is None:
        pytest.skip(f"no counts were committed for Python {VERSION}")
    found = counted(hotpath.extension().__file__)
    assert set(found) == set(KINDS)
    grown = {
        kind: (accepted[kind], now)
        for kind, now in found.items()
        if now > accepted[kind] * (1 + TOLERANCE)
    }
    assert not grown, "instructions by event, accepted and now"
