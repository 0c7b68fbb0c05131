"""Tables that many analyses need, computed once for each profile."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import pandas as pd

if TYPE_CHECKING:
    from xsp.analysis.profile_data import ProfileData


def once_per_profile(
    function: Callable[[ProfileData], pd.DataFrame],
) -> Callable[[ProfileData], pd.DataFrame]:
    """Keep what a function of a profile returns for as long as the profile lives, and hand out
    copies.

    A profile does not change once it is filled; an empty one raises, and what raises is not kept.
    """
    kept: WeakKeyDictionary[ProfileData, pd.DataFrame] = WeakKeyDictionary()

    @wraps(function)
    def remembered(profile: ProfileData) -> pd.DataFrame:
        if profile not in kept:
            kept[profile] = function(profile)
        return kept[profile].copy()

    return remembered
