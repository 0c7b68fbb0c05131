"""Mutants of JSON: values replaced, removed, repeated, at any depth."""

from __future__ import annotations

import copy
from typing import Any

from fuzz.choices import Choices, pick

HOSTILE: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 2**31, 2**53, 2**63, 10**400, -(2**70), 0.5, -1.5, 1e308,
    float("nan"), float("inf"), "", "0", "-1", "\ud800", "\udfff name", "a" * 5000, "\x00",
    "\x1b[31m", "\u202etxt", "=1+1", "M/L", "MODEL", "LAYER", "[]", "{}", "[[]]",
    '[["a"]]', "[1, [2]]", "null",
    '{"m": "8", "n": [], "k": {}}', '[[9223372036854775807, 9223372036854775807]]', [], {}, [[]],
    [None], [1, 2, 3], {"a": 1}, {"": None}, [[[[[]]]]],
)  # fmt: skip
"""Values that a program which trusts its input does not expect; laid out as a table."""


def mutated(document: Any, choices: Choices) -> Any:
    """A copy with one to three changes."""
    changed = copy.deepcopy(document)
    for _ in range(1 + choices.below(3)):
        changed = _changed(changed, choices)
    return changed


def _changed(value: Any, choices: Choices) -> Any:
    if isinstance(value, dict) and value and choices.below(8):
        key = pick(choices, list(value))
        if not choices.below(8):
            del value[key]
        elif not choices.below(12):
            value[str(pick(choices, HOSTILE))[:100]] = value[key]
        else:
            value[key] = _changed(value[key], choices)
        return value
    if isinstance(value, list) and value and choices.below(8):
        place = choices.below(len(value))
        action = choices.below(8)
        if action == 0:
            del value[place]
        elif action == 1:
            value.insert(place, copy.deepcopy(pick(choices, value)))
        else:
            value[place] = _changed(value[place], choices)
        return value
    return _replaced(value, choices)


def _replaced(value: Any, choices: Choices) -> Any:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and abs(value) < 1e300 and choices.below(2):
        return pick(choices, (value + 1, value - 1, -value, value * 1000, value + 0.5))
    if isinstance(value, str) and value and choices.below(2):
        return pick(choices, (value[:-1], value + value, value + "\x00", value + "\u200e`\x1b"))
    return copy.deepcopy(pick(choices, HOSTILE))
