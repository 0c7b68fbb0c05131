"""What joins, climbs and sums spans, against loops that do the same one by one."""

from __future__ import annotations

import numpy as np
import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from xsp.analysis.spans.ancestors import nearest, nearest_above
from xsp.analysis.spans.corrected_times import with_corrected_times
from xsp.analysis.spans.launches import launch_of
from xsp.analysis.spans.sums import sum_by_run, sum_up

CALLS = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 5), st.integers(0, 9)), min_size=0, max_size=12
)


def column(rows: list[tuple[int, int, int]], place: int) -> np.ndarray:
    return np.array([row[place] for row in rows], dtype=np.int64)


@given(calls=CALLS, asked=CALLS)
def test_a_launch_is_the_earliest_call_of_its_run_with_its_id(
    calls: list[tuple[int, int, int]], asked: list[tuple[int, int, int]]
) -> None:
    """Whatever the order of the calls, of those of the run with the id the one that starts first is
    found; id 0 is none.
    """
    found = launch_of(
        column(asked, 1),
        column(calls, 1),
        column(calls, 2),
        run=column(asked, 0),
        api_run=column(calls, 0),
    )
    for (run, identity, _), row in zip(asked, found.tolist(), strict=True):
        starts = [call[2] for call in calls if call[:2] == (run, identity) and identity != 0]
        assert (row >= 0) == bool(starts)
        if starts:
            assert calls[row][:2] == (run, identity)
            assert calls[row][2] == min(starts)


@st.composite
def forests(draw: st.DrawFn) -> tuple[list[int], list[bool]]:
    """Parents that come before their children, and which rows are wanted."""
    size = draw(st.integers(1, 15))
    parents = [draw(st.integers(-1, row - 1)) for row in range(size)]
    return parents, draw(st.lists(st.booleans(), min_size=size, max_size=size))


@given(forest=forests())
def test_climbing_ends_at_the_first_wanted_row(forest: tuple[list[int], list[bool]]) -> None:
    """`nearest` counts the row itself, `nearest_above` does not; -1 where the root is passed."""
    parents, wanted = forest

    def climbed(row: int) -> int:
        while row >= 0 and not wanted[row]:
            row = parents[row]
        return row

    rows = range(len(parents))
    parent, flags = np.array(parents), np.array(wanted)
    assert nearest(parent, flags).tolist() == [climbed(row) for row in rows]
    assert nearest_above(parent, flags).tolist() == [climbed(parents[row]) for row in rows]


@given(forest=forests())
def test_a_sum_up_a_tree_counts_every_descendant_once(
    forest: tuple[list[int], list[bool]],
) -> None:
    """Each node's sum is its own amount plus the sums of its children; here of one tree."""
    parents = [-1, *(max(parent, 0) for parent in forest[0][1:])]
    amount = np.array([[1.0 + row, 10.0 * row] for row in range(len(parents))]).T
    total = sum_up(np.array(parents), amount)
    for row in range(len(parents)):
        children = [child for child, parent in enumerate(parents) if parent == row]
        np.testing.assert_allclose(total[:, row], amount[:, row] + total[:, children].sum(axis=1))


def test_sums_by_run_keep_runs_without_amounts() -> None:
    """A run that has nothing is a row of zeros where the runs are named, and no row where not."""
    run, item, amount = np.array([3, 3, 7]), np.array([0, 1, 1]), np.array([2.0, 3.0, 4.0])
    named = sum_by_run(run, item, amount, 2, np.array([3, 5, 7]))
    assert named.tolist() == [[2, 3], [0, 0], [0, 4]]
    assert sum_by_run(run, item, None, 2).tolist() == [[1, 1], [0, 1]]


def test_corrected_times_replace_only_the_rows_that_they_have() -> None:
    """Rows that the corrected timeline lacks keep the recorded times, and the input is not
    written to.
    """
    spans = pd.DataFrame({"start_ns": [10, 20, 30], "duration_ns": [5, 5, 5]})
    corrected = pd.DataFrame({"row": [2, 0], "start_ns": [25, 9], "duration_ns": [4, 3]})
    timed = with_corrected_times(spans, corrected)
    assert timed["start_ns"].tolist() == [9, 20, 25]
    assert timed["duration_ns"].tolist() == [3, 5, 4]
    assert spans["start_ns"].tolist() == [10, 20, 30]
