"""C++ symbols that the C++ library could not read, for people: NVCC mangles some templates in a way
that libstdc++ refuses (`_ZN7cutlass13device_kernelIN2at4cuda6detail…`).

Only what a short name needs is read: the qualified name, and the identifiers among its template
arguments. A reader who wants all of it has the symbol.
"""

from __future__ import annotations

import re
from functools import cache

_LITERAL = re.compile(r"L[a-z]n?\d+E")
_SUBSTITUTION = re.compile(r"S[0-9A-Z]*_")
_LENGTH = re.compile(r"\d+")
_PREFIXES = ("_ZN", "_ZNK", "_Z")


@cache
def readable(name: str) -> str:
    """`cutlass::device_kernel<at, cuda, …>()` of a mangled symbol; any other name as it is."""
    if not name.startswith("_Z"):
        return name
    start = len(next(prefix for prefix in _PREFIXES if name.startswith(prefix)))
    qualified, end = _adjacent(name, start)
    if not qualified:
        return name
    rest = name[end:]
    if not rest.startswith("I"):
        return f"{'::'.join(qualified)}()"
    inner = _identifiers(_SUBSTITUTION.sub("", _LITERAL.sub("", rest)))
    return f"{'::'.join(qualified)}<{', '.join(inner)}>()"


def _adjacent(text: str, at: int) -> tuple[list[str], int]:
    """Identifiers written as `<length><name>` one behind the other, and where they end."""
    found = []
    while length := _LENGTH.match(text, at):
        identifier = text[length.end() : length.end() + int(length.group())]
        if len(identifier) < int(length.group()):
            break
        found.append(identifier)
        at = length.end() + len(identifier)
    return found, at


def _identifiers(text: str) -> list[str]:
    """Every identifier of the text, in order."""
    found, at = [], 0
    while length := _LENGTH.search(text, at):
        inner, end = _adjacent(text, length.start())
        found += inner
        at = max(end, length.end())
    return found
