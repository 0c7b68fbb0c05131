"""Where the kernels of graphs are found in programs: nowhere else than where they are."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from xsp.analysis.spans.graph_matching import Found, Launches, Program, find_sequences

CODES = st.lists(st.integers(0, 2), min_size=1, max_size=12)


def found(launched: list[list[int]], programs: list[list[int]], graphs: list[int]) -> Found:
    """Launches of one run, in programs of which nothing is known."""
    sizes = [len(each) for each in launched]
    launches = Launches(
        np.array([code for each in launched for code in each]),
        np.repeat(np.arange(len(launched)), sizes),
        np.repeat(graphs, sizes),
        np.zeros(sum(sizes), dtype=np.int64),
    )
    return find_sequences(launches, [Program(np.array(each)) for each in programs])


def occurrences(sequence: list[int], program: list[int]) -> list[int]:
    """Every place where the program launches the sequence."""
    size = len(sequence)
    return [at for at in range(len(program)) if program[at : at + size] == sequence]


@settings(max_examples=200, deadline=None)
@given(st.lists(CODES, min_size=1, max_size=3), st.data())
def test_what_is_found_is_equal_and_is_nowhere_else(
    programs: list[list[int]], data: st.DataObject
) -> None:
    """Parts of programs, and sequences of nothing, are found where they are if that is one place;
    by turn only if one program has them several times; else nowhere.
    """
    parts = [each[begin:] for each in programs for begin in range(len(each))]
    launched = data.draw(st.lists(st.sampled_from(parts) | CODES, min_size=1, max_size=4))
    result = found(launched, programs, list(range(1, len(launched) + 1)))
    at = 0
    for sequence in launched:
        places = [occurrences(sequence, each) for each in programs]
        program, place = int(result.program[at]), int(result.place[at])
        having = [number for number, each in enumerate(places) if each]
        if program >= 0:
            assert having == [program]
            assert place in places[program]
            assert result.by_turn[at] == (len(places[program]) > 1)
            until = at + len(sequence)
            assert result.place[at:until].tolist() == list(range(place, place + len(sequence)))
        else:
            assert len(having) != 1 or len(places[having[0]]) > 1
        at += len(sequence)


def test_a_difference_is_where_the_longest_agreement_ends() -> None:
    """Of several places at which a program begins alike, the one that goes on longest is told of,
    and -1 stands for a program that ends too early.
    """
    (mismatch,) = found([[1, 2, 3, 4]], [[1, 2, 9, 1, 2, 3, 7], [5, 5]], [3]).mismatches
    assert (mismatch.place, mismatch.expected, mismatch.found) == (3, 7, 4)
    (mismatch,) = found([[1, 2, 3, 4]], [[0, 1, 2]], [3]).mismatches
    assert (mismatch.place, mismatch.expected, mismatch.found) == (2, -1, 3)
    (mismatch,) = found([[8, 2]], [[0, 1, 2]], [3]).mismatches
    assert (mismatch.place, mismatch.expected, mismatch.found) == (0, 0, 8)
