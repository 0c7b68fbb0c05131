"""A capture has its fitted costs with it, and what another version or nobody fitted is not used."""

from __future__ import annotations

import copy
import json
import math
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import xsp
from xsp.analysis.correction import is_current, of_capture
from xsp.capture import file as capture_file
from xsp.capture.file import replace_meta
from xsp.errors import CaptureError

CAPTURES = Path(__file__).parents[1] / "examples" / "captures"
EXAMPLE = Path(xsp.__file__).parent / "examples" / "resnet50.xsp"
SMALL = CAPTURES / "models" / "alexnet.xsp"

Row = dict[str, Any]


def meta_in(path: Path) -> Row:
    with zipfile.ZipFile(path) as archive:
        meta: Row = json.loads(archive.read("manifest.json"))["meta"]
    return meta


@pytest.fixture(scope="module")
def small() -> capture_file.Capture:
    return capture_file.load(SMALL)


def with_row(small: capture_file.Capture, row: Row) -> xsp.Profile:
    """The small capture, written and opened again, with this `correction` in its manifest."""
    return xsp.Profile(capture_file.Capture({**small.meta, "correction": row}, small.tables))


@pytest.mark.parametrize(
    "path", [EXAMPLE, *sorted(CAPTURES.rglob("*.xsp"))], ids=lambda path: path.stem
)
def test_a_bundled_capture_has_the_fit_of_this_version(path: Path) -> None:
    """Nobody who opens a capture that comes with xsp waits for a fit. After a change of
    FIT_VERSION: python benchmarks/refit.py FILES.
    """
    assert is_current(meta_in(path)["correction"])


def test_what_is_stored_is_what_is_fitted(small: capture_file.Capture) -> None:
    """The costs in a bundled capture are those that its runs give, to the digits in which machines
    agree.
    """
    stored = xsp.Profile(small)
    fitted = with_row(small, {**small.meta["correction"], "version": 10**6})
    for table in ("costs", "closure_error"):
        pd.testing.assert_frame_equal(getattr(stored, table), getattr(fitted, table), rtol=1e-5)


def _without(*keys: str) -> Callable[[Row], None]:
    def change(row: Row) -> None:
        for key in keys:
            del row[key]

    return change


def _set(value: Any, *path: str | int) -> Callable[[Row], None]:
    def change(row: Row) -> None:
        at: Any = row
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = value

    return change


def _no_interval(row: Row) -> None:
    del row["costs"]["intervals"]["backward_ns"]


NOT_USED = {
    "no version": _without("version"),
    "an older version": _set(of_capture.FIT_VERSION + 1, "version"),
    "no spread": _without("spread"),
    "no share": _without("taken"),
    "no host's closure": _without("host_closure", "unshown"),
    "no interval": _no_interval,
    "no cost": lambda row: row["costs"].pop("backward_ns"),
    "an hour a layer": _set(3.6e12, "costs", "layer_ns"),
    "endless": _set(math.inf, "costs", "launch_ns"),
    "not a number": _set(math.nan, "costs", "api_ns"),
    "an endless interval": _set([0.0, math.inf], "costs", "intervals", "layer_ns"),
    "an endless spread": _set(math.inf, "spread", 0, 0),
    "an unknown share": _set([math.nan, 0.0], "taken"),
}


@pytest.mark.parametrize("change", NOT_USED.values(), ids=NOT_USED)
def test_what_no_fit_of_this_version_gives_is_fitted_again(
    change: Callable[[Row], None], small: capture_file.Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Costs of another version, incomplete ones and impossible ones keep the manifest's rules but
    are not believed.
    """
    row = copy.deepcopy(small.meta["correction"])
    again = of_capture.correction_of(row, small.tables)
    monkeypatch.setattr(of_capture, "fitted", lambda *_: again)
    change(row)
    profile = with_row(small, row)
    pd.testing.assert_frame_equal(profile.costs, xsp.Profile(small).costs)
    assert profile._correction is again


STRANGE = {
    "no closure": _set({}, "closure"),
    "a closure of no rung": _set(
        {"(": {"error": 2.0**60, "low": -math.inf, "high": math.nan, "by_round": []}}, "closure"
    ),
    "shares of no cost": _set({"(": 2.0**60}, "mostly_tracing"),
    "a negative spread": _set(-1e18, "spread", 0, 0),
    "a level twice": _set(["LAYER", "LAYER"], "unshown"),
}


@pytest.mark.parametrize("change", STRANGE.values(), ids=STRANGE)
def test_a_tampered_fit_crashes_nothing(
    change: Callable[[Row], None], small: capture_file.Capture
) -> None:
    """Whatever keeps the manifest's rules can be shown: a report of it ends."""
    row = copy.deepcopy(small.meta["correction"])
    change(row)
    assert "latency" in repr(with_row(small, row))


def test_saving_a_loaded_capture_keeps_the_new_fit(
    small: capture_file.Capture, tmp_path: Path
) -> None:
    """What an older version fitted is replaced when the profile is saved again."""
    row = {name: small.meta["correction"][name] for name in ("costs", "closure")}
    saved = with_row(small, row).save(tmp_path / "again.xsp")
    assert is_current(meta_in(saved)["correction"])


def test_another_manifest_leaves_the_tables_as_they_are(tmp_path: Path) -> None:
    """Tables are copied byte for byte, and a manifest that breaks a rule changes nothing."""
    path = Path(shutil.copy(SMALL, tmp_path / "a.xsp"))
    replace_meta(path, meta_in(path) | {"name": "Other"})
    with zipfile.ZipFile(SMALL) as before, zipfile.ZipFile(path) as after:
        assert before.namelist() == after.namelist()
        tables = [name for name in before.namelist() if name != "manifest.json"]
        assert all(before.read(name) == after.read(name) for name in tables)
    assert xsp.load(path).name == "Other"
    written = path.read_bytes()
    with pytest.raises(CaptureError, match="stays as it is"):
        replace_meta(path, meta_in(path) | {"name": 1})
    assert path.read_bytes() == written
