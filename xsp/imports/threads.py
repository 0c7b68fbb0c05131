"""Numbers of threads, which captures keep in 32 bits."""

from __future__ import annotations

import zlib

_MASK = 0xFFFFFFFF


class ThreadNumbers:
    """A number of 32 bits for every thread of a trace, the same whenever it is asked for.

    It is the low half of the thread's id, or the next free one where another thread has that
    already: ids of pthreads are addresses, of which the low halves can be equal.
    """

    def __init__(self) -> None:
        self._numbers: dict[object, int] = {}
        self._taken: set[int] = set()

    def of(self, thread: object) -> int:
        """The number of a thread, by its id or name."""
        known = self._numbers.get(thread)
        if known is not None:
            return known
        is_number = isinstance(thread, int)
        number = (int(str(thread)) if is_number else zlib.crc32(str(thread).encode())) & _MASK
        while number in self._taken:
            number = (number + 1) & _MASK
        self._numbers[thread] = number
        self._taken.add(number)
        return number
