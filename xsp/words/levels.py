"""Levels as people write them: `"M/L/K"`, `"LAYER"`, members."""

from __future__ import annotations

from collections.abc import Iterable

from xsp.errors import LevelError
from xsp.types import DEFAULT_LEVELS, LEVEL_ABBREVIATIONS, Level, by_depth

_BY_NAME = {level.name: level for level in Level} | {
    short.upper(): level for level, short in LEVEL_ABBREVIATIONS.items()
}


def parse_levels(levels: str | Iterable[Level | str] | None) -> tuple[Level, ...]:
    """Levels from `None` (all but OP), `"M/L/O/Lib/K"`, `"MLK"`, names or members, outermost
    first; MODEL is always among them.

    Raises LevelError for a name that is not a level.
    """
    if levels is None:
        return DEFAULT_LEVELS
    if isinstance(levels, str):
        levels = _split(levels)
    if isinstance(levels, Level) or not isinstance(levels, Iterable):
        levels = [levels]
    return by_depth({Level.MODEL, *(_level(level) for level in levels)})


def _split(text: str) -> list[str]:
    if "/" in text or "," in text or text.upper() in _BY_NAME:
        return [part for part in text.replace(",", "/").split("/") if part.strip()]
    return list(text)


def _level(level: Level | str) -> Level:
    name = level.name if isinstance(level, Level) else str(level).strip().upper()
    if name not in _BY_NAME:
        known = ", ".join(f"{one.name} ({LEVEL_ABBREVIATIONS[one]})" for one in Level)
        raise LevelError(
            f"no level is called {level!r}; the levels are {known}, for example levels='M/L/K'"
        )
    return _BY_NAME[name]
