"""Where a mutant's choices come from: a random generator, or a coverage-guided fuzzer's bytes."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Choices(Protocol):
    """A source of decisions."""

    def below(self, count: int) -> int:
        """A number from 0 to `count` - 1."""


class Random:
    """Choices of a seeded generator."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def below(self, count: int) -> int:
        return self._random.randrange(count)


class Bytes:
    """Choices that a fuzzer's bytes make."""

    def __init__(self, provider: Any) -> None:
        self._provider = provider

    def below(self, count: int) -> int:
        return int(self._provider.ConsumeIntInRange(0, count - 1))


def pick(choices: Choices, items: Sequence[T]) -> T:
    """One of the items."""
    return items[choices.below(len(items))]
