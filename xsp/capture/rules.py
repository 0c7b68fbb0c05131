"""Rules for values of JSON that somebody else wrote: each says what is wrong, or nothing.

A rule takes a value and returns "" where the value keeps it, else a clause such as
`levels[2].status must be one of traced, unavailable, off, not 3`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

Rule = Callable[[Any], str]

_SHOWN = 60
MOST = 2**61
"""Numbers stay below this, so that sums and differences of two of them fit into int64."""


def whole(low: int = -MOST, high: int = MOST) -> Rule:
    """A whole number from `low` to `high`."""

    def rule(value: Any) -> str:
        fits = type(value) is int and low <= value <= high
        return "" if fits else _must(f"a whole number from {low} to {high}", value)

    return rule


def real(low: float = -math.inf) -> Rule:
    """A number >= `low`; NaN too, which stands for what is not known."""

    def rule(value: Any) -> str:
        fits = (type(value) in (int, float) and abs(value) <= MOST) or _is_unbounded(value)
        return "" if fits and not value < low else _must(f"a number >= {low}", value)

    return rule


def _is_unbounded(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


_number = real()


def flag(value: Any) -> str:
    """True or False."""
    return "" if isinstance(value, bool) else _must("true or false", value)


def text(value: Any) -> str:
    """Text that can be written as UTF-8: without lone surrogates."""
    fits = isinstance(value, str) and (value.isascii() or is_unicode(value))
    return "" if fits else _must("text in Unicode", value)


def is_unicode(value: str) -> bool:
    """Whether it can be encoded: it has no half of a surrogate pair without the other."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def hexadecimal(digits: int) -> Rule:
    """So many hexadecimal digits, as text."""

    def rule(value: Any) -> str:
        fits = isinstance(value, str) and len(value) == digits and set(value) <= _HEX
        return "" if fits else _must(f"{digits} hexadecimal digits", value)

    return rule


_HEX = frozenset("0123456789abcdefABCDEF")


def one_of(choices: Collection[str]) -> Rule:
    """One of these texts."""

    def rule(value: Any) -> str:
        fits = isinstance(value, str) and value in choices
        return "" if fits else _must(f"one of {', '.join(choices)}", value)

    return rule


def having(required: Mapping[str, Rule]) -> Rule:
    """An object with these keys, each with its rule; the others were judged before."""

    def rule(value: Any) -> str:
        if not isinstance(value, dict):
            return _must("an object", value)
        for key, inner in required.items():
            if key not in value:
                return f" lacks {key}"
            if said := inner(value[key]):
                return f".{key}{_joined(said)}"
        return ""

    return rule


def optional(inner: Rule) -> Rule:
    """null, or what the inner rule allows."""
    return lambda value: "" if value is None else inner(value)


def items(inner: Rule, least: int = 0, most: int | None = None) -> Rule:
    """A list of `least` to `most` values, each by the inner rule."""

    def rule(value: Any) -> str:
        if not isinstance(value, list) or len(value) < least or (most and len(value) > most):
            return _must(f"a list of at least {least} values", value)
        for place, each in enumerate(value):
            if said := inner(each):
                return f"[{place}]{_joined(said)}"
        return ""

    return rule


def mapping(inner: Rule) -> Rule:
    """An object with any keys, and values by the inner rule."""

    def rule(value: Any) -> str:
        if not isinstance(value, dict):
            return _must("an object", value)
        return _first(value, dict.fromkeys(value, inner))

    return rule


def record(
    required: Mapping[str, Rule],
    others: Mapping[str, Rule] | None = None,
    *,
    closed: bool = False,
) -> Rule:
    """An object that has the required keys and may have others, each with its rule.

    Keys that no rule names may be there, with any plain value, because a later version may write
    them; not where the record is `closed`.
    """
    known = {**(others or {}), **required}

    def rule(value: Any) -> str:
        if not isinstance(value, dict):
            return _must("an object", value)
        if missing := [key for key in required if key not in value]:
            return f" lacks {', '.join(missing)}"
        if closed and (strange := sorted(set(value) - set(known))):
            return f" has {ascii(strange[0])[:_SHOWN]}, which this version does not know"
        return _first(value, {key: known.get(key, plain) for key in value})

    return rule


def plain(value: Any) -> str:
    """Any JSON whose texts are Unicode and whose numbers are of a sane size."""
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, str):
            said = "" if each.isascii() else text(each)
        elif isinstance(each, list):
            waiting += each
            continue
        elif isinstance(each, dict):
            waiting += each
            waiting += each.values()
            continue
        else:
            said = "" if each is None or isinstance(each, bool) else _number(each)
        if said:
            return said
    return ""


def json_text(inner: Rule) -> Rule:
    """Text that is JSON by the inner rule."""

    def rule(value: Any) -> str:
        if not isinstance(value, str):
            return _must("JSON as text", value)
        try:
            return inner(json.loads(value))
        except (ValueError, RecursionError) as error:
            return _must(f"JSON ({error})", value)

    return rule


def _first(value: Mapping[str, Any], rules: Mapping[str, Rule]) -> str:
    for key, inner in rules.items():
        if said := text(key) or inner(value[key]):
            return f".{_shown(key)[1:-1]}{_joined(said)}"
    return ""


def _joined(said: str) -> str:
    return said if said[:1] in (".", "[", " ") else f" {said}"


def _must(what: str, value: Any) -> str:
    return f" must be {what}, not {_shown(value)}"


def _shown(value: Any) -> str:
    shown = ascii(value) if isinstance(value, str) else _cut(value)
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}…"


def _cut(value: Any) -> str:
    """A value as text without building the whole text of a large one."""
    if isinstance(value, list | dict):
        return f"{type(value).__name__} of {len(value)}"
    return f"a number of {value.bit_length()} bits" if _is_long(value) else repr(value)


def _is_long(value: Any) -> bool:
    return isinstance(value, int) and value.bit_length() > 200
