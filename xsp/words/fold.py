"""Which nodes of a hierarchy to show when they are too many: the largest shares, with every
ancestor.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass

_WORTH_A_LINE = 0.5
"""Of an opened node's children, those get a line of their own that have at least this much of the
average share.
"""


@dataclass(frozen=True)
class Line:
    """One line of a folded table.

    `row` is the row of the latency table, and `hidden` the number of its direct children that are
    not shown because none is. With `row` -1 the line stands for `hidden` further children of
    `parent` (a row), each with at most `share` of the latency.
    """

    row: int
    depth: int
    hidden: int = 0
    parent: int = -1
    share: float = math.nan


def fold_rows(
    parents: Sequence[int], shares: Sequence[float], limit: int, depth: int | None = None
) -> list[Line]:
    """At most `limit` lines (one per root at least), in order of the rows.

    Nodes are opened in order of their share; an opened node shows its larger children and one line
    for the others.

    Args:
        parents: the row of each row's parent, which comes before it, or -1.
        shares: share of the latency by row; NaN counts as nothing.
        limit: lines at most.
        depth: largest depth shown, the roots' being 0.

    """
    tree = _Tree(parents, [0.0 if math.isnan(share) else share for share in shares], depth)
    return tree.lines(_Choice(tree, limit).shown)


class _Tree:
    def __init__(self, parents: Sequence[int], shares: Sequence[float], depth: int | None) -> None:
        self.parents, self.shares = parents, shares
        self.below: list[list[int]] = [[] for _ in parents]
        self.depths: list[int] = []
        for row, parent in enumerate(parents):
            self.depths.append(self.depths[parent] + 1 if parent >= 0 else 0)
            if parent >= 0:
                self.below[parent].append(row)
        deepest = math.inf if depth is None else depth
        self.allowed = {row for row, at in enumerate(self.depths) if at <= deepest}
        self.roots = [row for row, parent in enumerate(parents) if parent < 0]

    def priority(self, row: int) -> tuple[float, int, int]:
        """Sorts larger shares, then shallower nodes, then earlier ones first."""
        return -self.shares[row], self.depths[row], row

    def lines(self, shown: set[int]) -> list[Line]:
        """Lines for the chosen rows and for what is hidden below them."""
        found: list[Line] = []
        pending = [Line(row, 0) for row in reversed(self.roots)]
        while pending:
            line = pending.pop()
            children = self.below[line.row] if line.row >= 0 else []
            visible = [child for child in children if child in shown]
            hidden = [child for child in children if child not in shown]
            found.append(
                line if visible or line.row < 0 else Line(line.row, line.depth, len(hidden))
            )
            if visible and hidden:
                largest = max(self.shares[child] for child in hidden)
                pending.append(Line(-1, line.depth + 1, len(hidden), line.row, largest))
            pending.extend(Line(child, line.depth + 1) for child in reversed(visible))
        return found


class _Choice:
    """The rows to show, chosen so that they and the lines for hidden ones are at most `limit`."""

    def __init__(self, tree: _Tree, limit: int) -> None:
        self._tree = tree
        if len(tree.allowed) <= limit:
            self.shown = tree.allowed
            return
        self.shown = set(tree.roots)
        self._left = limit - len(tree.roots)
        self._open_largest()
        self._fill_up()

    def _open_largest(self) -> None:
        tree = self._tree
        waiting = [tree.priority(row) for row in tree.roots]
        heapq.heapify(waiting)
        while waiting:
            _, at, row = heapq.heappop(waiting)
            children = [child for child in tree.below[row] if child in tree.allowed]
            large = self._worth_a_line(children, must=at == 0)
            if not large:
                continue
            self.shown.update(large)
            self._left -= self._cost(len(large), len(children))
            for child in large:
                heapq.heappush(waiting, tree.priority(child))

    def _worth_a_line(self, children: list[int], must: bool) -> list[int]:
        """The children to show when their parent is opened, none if they do not fit; of the roots',
        as many as fit.
        """
        least = (
            _WORTH_A_LINE
            * sum(self._tree.shares[child] for child in children)
            / max(len(children), 1)
        )
        ranked = sorted(children, key=self._tree.priority)
        large = [child for child in ranked if self._tree.shares[child] >= least]
        if len(large) == len(children) - 1:
            large = ranked
        if self._cost(len(large), len(children)) <= self._left:
            return large
        return ranked[: max(self._left - 1, 0)] if must else []

    @staticmethod
    def _cost(shown: int, children: int) -> int:
        return shown + int(0 < shown < children)

    def _fill_up(self) -> None:
        """Give what room is left to the largest hidden children of opened nodes."""
        tree = self._tree
        opened = {tree.parents[row] for row in self.shown} - {-1}
        hidden = {
            row: [each for each in tree.below[row] if each not in self.shown] for row in opened
        }
        for child in sorted(
            (child for rows in hidden.values() for child in rows), key=tree.priority
        ):
            siblings = hidden[tree.parents[child]]
            # The last hidden child takes the place of the line that counted it.
            cost = 0 if len(siblings) == 1 else 1
            if cost <= self._left:
                self.shown.add(child)
                siblings.remove(child)
                self._left -= cost
