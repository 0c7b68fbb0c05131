"""The two rows at the end of `layers` that stand for no layer."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

OUTSIDE_LAYERS = "(outside layers)"
"""Name of the row to which work belongs that no layer accounts for."""

NOT_IN_STRUCTURE = "(not in the structure run)"
"""Name of the row of layer calls that only timed runs made."""

NO_LAYER_KIND = "none"
"""Column `kind` of both rows."""


def stands_for_outside(layers: pd.DataFrame) -> npt.NDArray[np.bool_]:
    """For each row of `layers` whether it holds what no layer accounts for; its spans last as long
    as the model call.
    """
    return np.asarray((layers["kind"] == NO_LAYER_KIND) & (layers["name"] == OUTSIDE_LAYERS))
