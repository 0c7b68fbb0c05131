"""DLBricks' algorithms 1 and 2: a sequence of layers as subsequences that are valid networks."""

from __future__ import annotations

from collections.abc import Callable

from xsp.errors import GraphError

Valid = Callable[[int, int], bool]
"""Whether layers [begin, end) of a model are a network."""


def find_model_subgraphs(length: int, granularity: int, valid: Valid) -> list[tuple[int, int]]:
    """Half-open intervals [begin, end) that together are the whole sequence, in order, each of at
    most `granularity` layers (FindModelSubgraphs).

    Raises GraphError for a granularity below 1.
    """
    if granularity < 1:
        raise GraphError(
            f"granularity must be a whole number >= 1, not {granularity}: it is how many layers a "
            "brick has at most"
        )
    found: list[tuple[int, int]] = []
    begin = 0
    while begin < length:
        found += split_model(begin, min(begin + granularity, length), length, valid)
        begin = found[-1][1]
    return found


def split_model(begin: int, end: int, length: int, valid: Valid) -> list[tuple[int, int]]:
    """[begin, end) as one network, if it is one. Else its first layer alone and then the same for
    [begin + 1, end + 1), so that a window that fails moves on by one layer (SplitModel).

    The paper recurses; this loops, since a model can have thousands of layers.
    """
    found: list[tuple[int, int]] = []
    while end - begin > 1 and not valid(begin, end):
        found.append((begin, begin + 1))
        begin, end = begin + 1, min(end + 1, length)
    return [*found, (begin, end)]
