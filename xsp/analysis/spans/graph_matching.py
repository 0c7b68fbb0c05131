"""Where sequences of kernels that graphs launched occur in the sequences of eager programs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]

_BETWEEN, _BEYOND = -1, -2
"""Codes of no kernel: between two programs, and behind the last one."""


@dataclass(frozen=True)
class Mismatch:
    """Why a sequence of `kernels` activities was found nowhere, or at no one place.

    `place` is where it first differs from the program that agrees with it longest, counted from 0;
    `expected` and `found` are the codes there, -1 where the program has no more. `ambiguous` is
    True where it occurs at several places and its launches do not tell which is which.
    """

    kernels: int
    place: int
    expected: int
    found: int
    ambiguous: bool


@dataclass(frozen=True, eq=False)
class Found:
    """For every activity the number of the program and the place in it, -1 where it was not found;
    and a mismatch for each distinct sequence that was not.
    """

    program: Ints
    place: Ints
    mismatches: tuple[Mismatch, ...]


def find_sequences(codes: Ints, launch: Ints, run: Ints, programs: list[Ints]) -> Found:
    """Find the sequence of each launch as a whole in one of the `programs`.

    `codes` says what each activity is, `launch` which one it is of: those of a launch lie together,
    in the order of their nodes, and launches in order of time. A sequence that occurs several times
    in the programs is found where its launches in each run (`run`) take these places in turn.
    """
    text = _Text(programs)
    cuts = np.flatnonzero(np.diff(launch)) + 1
    sequences = np.split(codes, cuts)
    first = np.concatenate([[0], cuts]).astype(np.int64)
    kinds: dict[bytes, list[int]] = {}
    for number, sequence in enumerate(sequences):
        kinds.setdefault(sequence.tobytes(), []).append(number)
    start = np.full(len(sequences), -1, dtype=np.int64)
    mismatches: list[Mismatch] = []
    for alike in kinds.values():
        sequence = sequences[alike[0]]
        places, mismatch = text.places_of(sequence)
        taken = _in_turn(places, run[first[alike]])
        if taken is None:
            mismatches.append(mismatch or Mismatch(len(sequence), 0, -1, -1, ambiguous=True))
        else:
            start[alike] = taken
    within = np.arange(len(codes)) - np.repeat(first, [len(each) for each in sequences])
    begin = np.repeat(start, [len(each) for each in sequences])
    at = np.where(begin >= 0, begin + within, -1)
    return Found(text.program[at], text.place[at], tuple(mismatches))


def _in_turn(places: Ints, run: Ints) -> Ints | None:
    """The place of each launch of one sequence, in order of time; None where that is not known."""
    if len(places) <= 1:
        return np.repeat(places, len(run)) if len(places) else None
    _, begins, counts = np.unique(run, return_index=True, return_counts=True)
    if (counts % len(places)).any():
        return None
    number = np.arange(len(run)) - np.repeat(begins, counts)
    return places[number % len(places)]


class _Text:
    """The programs one after the other; `program` and `place` of each code, -1 for the last."""

    def __init__(self, programs: list[Ints]) -> None:
        gap = np.array([_BETWEEN], dtype=np.int64)
        self.codes = np.concatenate([part for each in programs for part in (each, gap)])
        lengths = [len(each) + 1 for each in programs]
        self.program = np.repeat(np.arange(len(programs)), lengths).astype(np.int64)
        self.place = np.concatenate([np.arange(length) for length in lengths]).astype(np.int64)
        self.program[-1] = self.place[-1] = -1

    def places_of(self, sequence: Ints) -> tuple[Ints, Mismatch | None]:
        """Where a sequence occurs, and if it does nowhere, how it differs. Nowhere, without a
        difference, where occurrences share kernels.
        """
        size = len(sequence)
        begins = np.flatnonzero(self.codes == sequence[0])
        padded = np.concatenate([self.codes, np.full(size, _BEYOND, dtype=np.int64)])
        equal = np.lib.stride_tricks.sliding_window_view(padded, size)[begins] == sequence
        agreeing = np.where(equal.all(axis=1), size, np.argmin(equal, axis=1))
        places = begins[agreeing == size]
        if not len(places):
            return places, self._difference(sequence, begins, agreeing)
        if (np.diff(places) < size).any():
            return places[:0], None
        return places, None

    def _difference(self, sequence: Ints, begins: Ints, agreeing: Ints) -> Mismatch:
        if not len(begins):
            expected = int(self.codes[0])
            return Mismatch(len(sequence), 0, expected, int(sequence[0]), ambiguous=False)
        best = int(np.argmax(agreeing))
        place = int(agreeing[best])
        expected = int(self.codes[begins[best] + place])
        return Mismatch(len(sequence), place, expected, int(sequence[place]), ambiguous=False)
