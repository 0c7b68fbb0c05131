"""Which ranges other tools see of the layers of a run, stamp by stamp."""

from __future__ import annotations

from copy import copy
from functools import partial

import pytest

from xsp.levels.layer.autograd import ENGINE_CODE
from xsp.levels.layer.function_mode import Codes
from xsp.levels.layer.layer_rows import LayerRow
from xsp.levels.layer.structure import Structure
from xsp.measuring.afterwards.annotated import RangeLog
from xsp.types import BACKWARD_BASE

MAIN, OTHER = 1, 2
NODE = BACKWARD_BASE
NEXT = BACKWARD_BASE + 5


class Tool:
    """What is opened (`+`) and closed (`-`): calls in a stack, started ranges by number."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def get_event_attributes(self, message: str) -> str:
        """The message is all that there is."""
        return message

    def push_range(self, message: str) -> None:
        """A call begins."""
        self.told.append(f"+{message}")

    def pop_range(self) -> None:
        """The innermost call ends."""
        self.told.append("-")

    def start_range(self, message: str) -> str:
        """A range begins that any thread can end."""
        self.told.append(f"+{message}")
        return message

    def end_range(self, started: str) -> None:
        """It ends."""
        self.told.append(f"-{started}")


@pytest.fixture
def tool() -> Tool:
    """Where ranges go."""
    return Tool()


@pytest.fixture
def log(tool: Tool) -> RangeLog:
    """A log that is on: code 3 is called twice, each time by another name."""
    rows = {
        ("first", "forward"): 3,
        ("body", "forward"): 4,
        ("second", "forward"): 3,
        ("body", "backward"): NODE,
        ("first", "backward"): NEXT,
        ("zero", "forward"): 0,
    }
    structure = Structure(Codes())
    for (name, phase), code in rows.items():
        row = LayerRow(name, "", "module", "", phase)
        structure.layers.add(code, None, partial(copy, row))
    made = RangeLog(tool, structure)
    made.on = True
    return made


def begin(log: RangeLog, code: int, thread: int = MAIN) -> None:
    """The stamp of a layer that begins."""
    log.append((2 * code, 0, thread))


def end(log: RangeLog, code: int, thread: int = MAIN) -> None:
    """The stamp of a layer that ends."""
    log.append((2 * code + 1, 0, thread))


def test_calls_have_the_names_of_the_structure_run_in_turn(log: RangeLog, tool: Tool) -> None:
    """Calls that the structure run did not make have the name of the last, or say so."""
    for code in (3, 4, 3, 3, 0, 9):
        begin(log, code)
        end(log, code)
    names = ["first", "body", "second", "second", "zero", "(not in the structure run)"]
    assert tool.told == [each for name in names for each in (f"+{name}", "-")]


def test_calls_can_be_inside_each_other(log: RangeLog, tool: Tool) -> None:
    """What begins last ends first."""
    begin(log, 4)
    begin(log, 3)
    end(log, 3)
    end(log, 4)
    assert tool.told == ["+body", "+first", "-", "-"]


def test_a_backward_node_ends_where_the_next_one_of_its_thread_begins(
    log: RangeLog, tool: Tool
) -> None:
    """Nodes of other threads go on meanwhile; all end with the engine's run."""
    begin(log, ENGINE_CODE)
    begin(log, NODE)
    begin(log, NEXT, OTHER)
    begin(log, NEXT)
    assert tool.told == ["+body (bwd)", "+first (bwd)", "-body (bwd)", "+first (bwd)"]
    tool.told.clear()
    end(log, ENGINE_CODE)
    assert tool.told == ["-first (bwd)", "-first (bwd)"]
    end(log, ENGINE_CODE)
    log.close()
    assert len(tool.told) == 2


def test_nothing_is_opened_before_the_run(log: RangeLog, tool: Tool) -> None:
    """What restoring the model's state calls is no range, and takes no name."""
    log.on = False
    begin(log, 3)
    end(log, 3)
    assert tool.told == []
    log.on = True
    begin(log, 3)
    assert tool.told == ["+first"]
    assert log == []
