"""A run of a capture, ready for the trace formats: what `Profile.to_perfetto` and `Profile.to_chrome` write."""

from __future__ import annotations

import pandas as pd

from xsp.capture import Capture
from xsp.export.run_choice import RunChoice, chosen
from xsp.export.run_view import RunView, run_view


def view_of(capture: Capture, wanted: RunChoice, corrected: pd.DataFrame | None) -> RunView:
    """The chosen run as slices; its MODEL slices carry the capture's environment and warnings.

    `corrected` are the capture's corrected times, None where it has none. Raises XspError for a run that is not there.
    """
    run = chosen(wanted, capture.tables, corrected)
    known = {name: value for name, value in capture.meta["environment"].items() if value is not None}
    about = {"run": run.run, "rung": run.rung, "corrected": run.corrected, "environment": known}
    return run_view(capture.tables, capture.meta, run, corrected, about | {"warnings": capture.meta["warnings"]})
