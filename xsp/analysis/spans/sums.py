"""Sums over spans by run and item, and up a hierarchy."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from xsp.types import IntArray

Array = npt.NDArray[np.float64]


def distinct(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The values without repetition, sorted, as `np.unique`, which hashes them and takes ten times
    as long for millions that are nearly in order, as stamps and runs are.
    """
    ranked = np.sort(values, kind="stable")
    if not len(ranked):
        return ranked
    found: npt.NDArray[Any] = ranked[np.concatenate([[True], ranked[1:] != ranked[:-1]])]
    return found


def among(values: npt.NDArray[Any], known: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Which values are among the known ones, as `np.isin`, which hashes them or sorts both."""
    ranked = distinct(known)
    if not len(ranked):
        return np.zeros(len(values), bool)
    place = np.minimum(np.searchsorted(ranked, values), len(ranked) - 1)
    found: npt.NDArray[np.bool_] = ranked[place] == values
    return found


def sum_by_run(
    run: IntArray,
    item: IntArray,
    amount: npt.NDArray[Any] | None,
    items: int,
    runs: IntArray | None = None,
) -> Array:
    """Sums of `amount` by run and item, as a matrix (runs, items).

    Args:
        run: the run of each amount.
        item: its item, 0 to items - 1.
        amount: what is summed; None counts.
        items: how many columns the matrix has.
        runs: the runs of the rows in ascending order, with every `run` among them; by default those
            that occur.

    """
    rows = distinct(run) if runs is None else runs
    place = np.searchsorted(rows, run)
    flat = np.bincount(place * items + item, weights=amount, minlength=len(rows) * items)
    return flat.astype(np.float64).reshape(len(rows), items)


def sum_up(parents: IntArray, amount: Array) -> Array:
    """Each node's amount plus those of everything below it, along the last axis.

    Children have larger indices than their parents. A pass for each level of nesting, not for each
    node.
    """
    total = amount.copy()
    by_node = np.moveaxis(total, -1, 0)
    for nodes in reversed(_by_depth(parents)):
        np.add.at(by_node, parents[nodes], by_node[nodes])
    return total


def _by_depth(parents: IntArray) -> list[IntArray]:
    """The nodes below the roots, those of each depth together, the shallowest first."""
    nodes = np.flatnonzero(parents >= 0)
    above = parents[nodes]
    depth = np.ones(len(nodes), dtype=np.int64)
    climbing = np.flatnonzero(parents[above] >= 0)
    while len(climbing):
        depth[climbing] += 1
        above[climbing] = parents[above[climbing]]
        climbing = climbing[parents[above[climbing]] >= 0]
    return [nodes[depth == each] for each in range(1, int(depth.max(initial=0)) + 1)]
