"""Taking the tracers' cost out of a timeline: costs fitted in place, runs replayed without them.
docs/replay.md.
"""

from __future__ import annotations

from xsp.analysis.correction.closure import Closure as Closure
from xsp.analysis.correction.corrected import corrected_spans as corrected_spans
from xsp.analysis.correction.of_capture import Correction as Correction
from xsp.analysis.correction.of_capture import correction_of as correction_of
from xsp.analysis.correction.of_capture import correction_row as correction_row
from xsp.analysis.correction.of_capture import fitted as fitted
from xsp.analysis.correction.of_capture import is_current as is_current
from xsp.analysis.correction.recordings import most_costs as most_costs
