"""From the stamps that timed runs write to intervals."""

from __future__ import annotations

from xsp.levels.layer.autograd import ENGINE_CODE
from xsp.levels.layer.recorder import Stamp
from xsp.levels.layer.stamps import pair_stamps
from xsp.types import BACKWARD_BASE

NODE = BACKWARD_BASE


def intervals(log: list[Stamp]) -> list[tuple[int, int, int, int]]:
    """(thread, code, start, end) of every event."""
    columns = pair_stamps(log)
    names = ("thread", "code", "start_ns", "end_ns")
    return list(zip(*(columns[name].tolist() for name in names), strict=True))


def begin(code: int, time_ns: int, thread: int = 1) -> Stamp:
    return 2 * code, time_ns, thread


def end(code: int, time_ns: int, thread: int = 1) -> Stamp:
    return 2 * code + 1, time_ns, thread


def test_nested_and_interleaved_calls_find_their_own_ends() -> None:
    """Calls of one thread nest; calls of another thread in between do not confuse them."""
    log = [begin(5, 10), begin(5, 11, 2), begin(6, 20), end(6, 30), end(5, 31, 2), end(5, 40)]
    assert intervals(log) == [(1, 5, 10, 40), (1, 6, 20, 30), (2, 5, 11, 31)]


def test_call_that_never_ended_is_left_out() -> None:
    """A layer that raised leaves a begin; the layers around it keep their intervals."""
    log = [begin(5, 10), begin(6, 20), begin(7, 21), end(7, 22), begin(8, 30), end(8, 31)]
    assert intervals(log) == [(1, 7, 21, 22), (1, 8, 30, 31)]


def test_backward_node_lasts_until_the_next_one_of_its_thread() -> None:
    """What autograd does between two nodes, such as adding up gradients, counts to the first."""
    log = [
        begin(ENGINE_CODE, 90),
        begin(NODE, 100, 2),
        begin(NODE + 1, 150, 2),
        end(ENGINE_CODE, 210),
    ]
    assert intervals(log) == [(2, NODE, 100, 150), (2, NODE + 1, 150, 210)]


def test_last_node_of_each_backward_ends_with_its_run_of_the_engine() -> None:
    """Between two backward calls other code runs: it is no node's."""
    log = [
        begin(ENGINE_CODE, 90),
        begin(NODE, 100),
        end(ENGINE_CODE, 130),
        begin(3, 140),
        end(3, 150),
        begin(ENGINE_CODE, 160),
        begin(NODE + 1, 170),
        end(ENGINE_CODE, 190),
    ]
    assert intervals(log) == [(1, NODE, 100, 130), (1, 3, 140, 150), (1, NODE + 1, 170, 190)]


def test_forward_calls_recomputed_inside_a_node_lie_inside_it() -> None:
    """Checkpointing runs forward layers during backward."""
    log = [
        begin(ENGINE_CODE, 0),
        begin(NODE, 10),
        begin(4, 20),
        end(4, 30),
        begin(NODE + 1, 40),
        end(ENGINE_CODE, 50),
    ]
    assert intervals(log) == [(1, NODE, 10, 40), (1, 4, 20, 30), (1, NODE + 1, 40, 50)]


def test_no_stamps_give_no_events() -> None:
    """A model without layers is no error."""
    assert intervals([]) == []


def test_nodes_without_any_call_last_until_the_last_of_them() -> None:
    """A run of which no call was seen has its nodes all the same."""
    assert intervals([begin(NODE, 100), begin(NODE + 1, 150)]) == [
        (1, NODE, 100, 150),
        (1, NODE + 1, 150, 150),
    ]
