"""Where sequences of kernels that graphs launched occur in the sequences of eager programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]

_BEYOND = -2
"""Code of no kernel, behind the last one of a program."""


@dataclass(frozen=True, eq=False)
class Program:
    """What a program launches, in order, as codes; and the ids of the graphs that hold it or parts
    of it, none where that is not known.
    """

    codes: Ints
    graphs: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Launches:
    """Activities that graphs launched, in order of time and, of each launch, of their nodes: what
    each is (`codes`), and the launch, graph and run that it is of.
    """

    codes: Ints
    launch: Ints
    graph: Ints
    run: Ints


@dataclass(frozen=True)
class Mismatch:
    """Why a sequence of `kernels` activities was found nowhere, or at no one place.

    `place` is where it first differs from the program that agrees with it longest, counted from 0;
    `expected` and `found` are the codes there, -1 where the program has no more. `ambiguous` is
    True where it occurs at several places and nothing tells which is which.
    """

    kernels: int
    place: int = 0
    expected: int = -1
    found: int = -1
    ambiguous: bool = False


@dataclass(frozen=True, eq=False)
class Found:
    """For every activity the number of the program and the place in it, -1 where it was not found,
    and whether it was found by the turn of its launch; and a mismatch for each distinct sequence
    that was not found.
    """

    program: Ints
    place: Ints
    by_turn: npt.NDArray[np.bool_]
    mismatches: tuple[Mismatch, ...]


def find_sequences(launches: Launches, programs: Sequence[Program]) -> Found:
    """Find the sequence of each launch as a whole in one of the programs: in those that say they
    are of its graph, else in those that do not say.

    A sequence that occurs several times in one program is found by turn, where its launches in each
    run are as many as these places or a multiple: the first launch is the first place.
    """
    cuts = np.flatnonzero(np.diff(launches.launch)) + 1
    first = np.concatenate([[0], cuts]).astype(np.int64)
    sequences = np.split(launches.codes, cuts)
    program, start = np.full((2, len(sequences)), -1, dtype=np.int64)
    by_turn = np.zeros(len(sequences), dtype=np.bool_)
    mismatches: list[Mismatch] = []
    asked = [_programs_of(int(graph), programs) for graph in launches.graph[first]]
    for alike in _groups(sequences, asked):
        sequence, numbers = sequences[alike[0]], asked[alike[0]]
        found = _search(sequence, [programs[number].codes for number in numbers])
        if isinstance(found, Mismatch):
            mismatches.append(found)
            continue
        taken = _in_turn(found.places, launches.run[first[alike]])
        if taken is None:
            mismatches.append(Mismatch(len(sequence), ambiguous=True))
            continue
        program[alike], start[alike] = numbers[found.program], taken
        by_turn[alike] = len(found.places) > 1
    lengths = [len(each) for each in sequences]
    within = np.arange(len(launches.codes)) - np.repeat(first, lengths)
    begin = np.repeat(start, lengths)
    place = np.where(begin >= 0, begin + within, -1)
    return Found(np.repeat(program, lengths), place, np.repeat(by_turn, lengths), tuple(mismatches))


def _programs_of(graph: int, programs: Sequence[Program]) -> tuple[int, ...]:
    own = tuple(number for number, each in enumerate(programs) if graph in each.graphs)
    return own or tuple(number for number, each in enumerate(programs) if not each.graphs)


def _groups(sequences: Sequence[Ints], asked: Sequence[tuple[int, ...]]) -> list[list[int]]:
    """Numbers of the launches that are equal and are looked for in the same programs."""
    groups: dict[tuple[bytes, tuple[int, ...]], list[int]] = {}
    for number, (sequence, programs) in enumerate(zip(sequences, asked, strict=True)):
        groups.setdefault((sequence.tobytes(), programs), []).append(number)
    return list(groups.values())


@dataclass(frozen=True, eq=False)
class _Places:
    """Where a sequence begins in one program."""

    program: int
    places: Ints


def _search(sequence: Ints, programs: Sequence[Ints]) -> _Places | Mismatch:
    """The places in the one program that has the sequence."""
    best = Mismatch(len(sequence))
    found: list[_Places] = []
    for number, codes in enumerate(programs):
        begins = np.flatnonzero(codes == sequence[0])
        agreeing = _agreeing(sequence, codes, begins)
        places = begins[agreeing == len(sequence)]
        if len(places):
            found.append(_Places(number, places))
        elif len(begins) and agreeing.max() > best.place:
            best = _difference(sequence, codes, begins, agreeing)
    if not found:
        if best.found < 0:
            expected = next((int(codes[0]) for codes in programs if len(codes)), -1)
            best = Mismatch(len(sequence), 0, expected, int(sequence[0]))
        return best
    shares_kernels = (np.diff(found[0].places) < len(sequence)).any()
    if len(found) > 1 or shares_kernels:
        return Mismatch(len(sequence), ambiguous=True)
    return found[0]


def _agreeing(sequence: Ints, codes: Ints, begins: Ints) -> Ints:
    """How many kernels from each of these places on are those of the sequence."""
    size = len(sequence)
    padded = np.concatenate([codes, np.full(size, _BEYOND, dtype=np.int64)])
    equal = np.lib.stride_tricks.sliding_window_view(padded, size)[begins] == sequence
    return np.where(equal.all(axis=1), size, np.argmin(equal, axis=1))


def _difference(sequence: Ints, codes: Ints, begins: Ints, agreeing: Ints) -> Mismatch:
    longest = int(np.argmax(agreeing))
    place = int(agreeing[longest])
    at = int(begins[longest]) + place
    expected = int(codes[at]) if at < len(codes) else -1
    return Mismatch(len(sequence), place, expected, int(sequence[place]))


def _in_turn(places: Ints, run: Ints) -> Ints | None:
    """The place of each launch of one sequence, in order of time; None where that is not known."""
    if len(places) == 1:
        return np.repeat(places, len(run))
    _, begins, counts = np.unique(run, return_index=True, return_counts=True)
    if (counts % len(places)).any():
        return None
    number = np.arange(len(run)) - np.repeat(begins, counts)
    return places[number % len(places)]
