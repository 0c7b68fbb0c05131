"""Taking the tracers' cost out of a timeline: costs fitted in place, runs replayed without them. docs/replay.md."""

from __future__ import annotations

from xsp.analysis.correction.captures import Correction as Correction
from xsp.analysis.correction.captures import corrected_spans as corrected_spans
from xsp.analysis.correction.captures import correction_of as correction_of
from xsp.analysis.correction.captures import correction_row as correction_row
from xsp.analysis.correction.captures import deepest_rung as deepest_rung
from xsp.analysis.correction.captures import fitted as fitted
from xsp.analysis.correction.captures import spec_of as spec_of
