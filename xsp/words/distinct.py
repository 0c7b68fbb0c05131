"""Short names of kernels that stay different where the kernels are: instances of one template are
told apart by the arguments that not all of them have, long names by the parts that differ.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from xsp.words.labels import shorten, telling_kernel_name
from xsp.words.mangled import readable

_WORD = re.compile(r"[A-Za-z_0-9]+")
_NAMESPACES = frozenset({"at", "c10", "native", "std", "cuda", "detail"})
_MOST = 3
"""Arguments that a name shows."""
_HEAD = 16
"""Characters that a long name begins with."""


def distinct_names(names: Iterable[str], width: int | None = None) -> dict[str, str]:
    """A short name for each kernel's name, no two of them equal, in at most `width` characters and
    those of a number where even the parts that differ are too long.

    `kernel<float, 512>(…)` and `kernel<float, 1024>(…)` are `kernel<512…>` and `kernel<1024…>`.
    """
    groups: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        groups.setdefault(telling_kernel_name(name), []).append(name)
    found: dict[str, str] = {}
    for short, group in groups.items():
        found.update({group[0]: short} if len(group) == 1 else _told_apart(short, group))
    if width is not None:
        found = _fitted(found, width)
    return _numbered(found)


def _told_apart(short: str, group: Sequence[str]) -> dict[str, str]:
    """Names of one short name, with the words that not all of them have in the same place."""
    words = {name: _WORD.findall(readable(name)) for name in group}
    base = short.partition("<")[0]
    found = {}
    for name in group:
        own = [word for word in _differing(words[name], words.values()) if word not in _NAMESPACES]
        shown = sorted(own, key=lambda word: _commonness(word, words.values()))[:_MOST]
        kept = [word for word in dict.fromkeys(own) if word in shown]
        found[name] = f"{base}<{', '.join(kept)}…>" if kept else short
    return found


def _differing(own: Sequence[str], every: Iterable[Sequence[str]]) -> list[str]:
    """Words that some other list does not have in the same place."""
    others = list(every)
    return [
        word
        for place, word in enumerate(own)
        if any(place >= len(other) or other[place] != word for other in others)
    ]


def _commonness(word: str, every: Iterable[Sequence[str]]) -> int:
    """How many of the names have the word: the rarest says most."""
    return sum(word in words for words in every)


def _fitted(found: Mapping[str, str], width: int) -> dict[str, str]:
    """The same in `width` characters; of names that would become equal, the beginning and what
    differs.
    """
    groups: dict[str, list[str]] = {}
    for short in dict.fromkeys(found.values()):
        groups.setdefault(shorten(short, width), []).append(short)
    fitted: dict[str, str] = {}
    for cut, group in groups.items():
        parts = {short: short.split("_") for short in group}
        for short in group:
            own = "_".join(_differing(parts[short], parts.values()))
            apart = f"{short[: min(_HEAD, width // 3)]}…{own}"
            fitted[short] = cut if len(group) == 1 else shorten(apart, width)
    return {name: fitted[short] for name, short in found.items()}


def _numbered(found: Mapping[str, str]) -> dict[str, str]:
    """The same with a number behind each name that is still not alone."""
    many = Counter(found.values())
    seen: Counter[str] = Counter()
    numbered = {}
    for name, short in found.items():
        seen[short] += 1
        numbered[name] = short if many[short] == 1 else f"{short} ({seen[short]})"
    return numbered
