"""YAML as plain values, with the line of each. Nothing that a document holds can run code, refer to
itself or take more memory than its text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    CollectionEndEvent,
    CollectionStartEvent,
    DocumentStartEvent,
    ScalarEvent,
)
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode

LARGEST_BYTES = 1 << 18
DEEPEST = 32
"""Levels of nesting; a manifest has eight."""

_DIGITS = 18
"""More do not fit into 64 bits."""

Path = tuple[str | int, ...]
"""Keys and positions that lead from the document to a value."""

_EMPTY = "is empty; a manifest begins with `xsp: 1`"
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_DECIMAL = re.compile(r"[-+]?(0|[1-9][0-9]*)?(\.[0-9]*)?([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|nan)", re.IGNORECASE)
_TAG = "tag:yaml.org,2002:"


class DocumentError(Exception):
    """Why text is not such a document, and in which line (from 1), if it is in one."""

    def __init__(self, what: str, line: int = 1, key: str = "") -> None:
        super().__init__(what)
        self.what, self.line, self.key = what, line, key


@dataclass(frozen=True)
class Document:
    """Values, and lines by path: of a key where the value has one."""

    content: Any
    lines: dict[Path, int]


def parse(raw: bytes) -> Document:
    """Read one YAML 1.2 document. Raises DocumentError."""
    text = _text(raw)
    try:
        _check_events(text)
        node = YAML(typ="safe", pure=True).compose(text)
    except MarkedYAMLError as error:
        raise _syntax(error) from error
    except YAMLError as error:
        said = str(error).strip().partition("\n")[0].partition(":")[0]
        line = text[: getattr(error, "position", 0)].count("\n") + 1
        raise DocumentError(f"is not YAML: {said}; take it out", line) from error
    if node is None:
        raise DocumentError(_EMPTY)
    lines: dict[Path, int] = {(): _line(node)}
    return Document(_value(node, (), lines), lines)


def _text(raw: bytes) -> str:
    if len(raw) > LARGEST_BYTES:
        raise DocumentError(
            f"has {len(raw)} bytes, but a manifest has {LARGEST_BYTES} at most; keep data in files"
        )
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise DocumentError("is not UTF-8; save it as UTF-8", line) from error
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise DocumentError("holds a NUL character; a manifest is text", line)
    if not text.strip():
        raise DocumentError(_EMPTY)
    return text


def _check_events(text: str) -> None:
    """Refuse what must not be composed: the composer calls itself for each level of nesting."""
    depth = documents = 0
    for event in _events(text):
        line = event.start_mark.line + 1
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        documents += isinstance(event, DocumentStartEvent)
        if getattr(event, "version", None) not in {None, (1, 2)}:
            raise DocumentError("asks for another YAML than 1.2; leave out the line %YAML", line)
        if depth > DEEPEST:
            raise DocumentError(f"is nested deeper than {DEEPEST} levels", line)
        if documents > 1:
            raise DocumentError("holds a second document; give each manifest a file", line)
        if isinstance(event, AliasEvent) or getattr(event, "anchor", None):
            raise DocumentError("uses an anchor or alias (& or *); write the value out", line)
        if isinstance(event, (ScalarEvent, CollectionStartEvent)) and event.tag:
            raise DocumentError(f"uses the tag {event.tag}; a manifest has no tags", line)


def _events(text: str) -> Iterator[Any]:
    yield from YAML(typ="safe", pure=True).parse(text)


def _syntax(error: MarkedYAMLError) -> DocumentError:
    mark = error.problem_mark or error.context_mark
    said = error.problem or error.context or "cannot be read"
    tab = " (use spaces)" if "'\\t'" in said else ""
    return DocumentError(f"is not YAML: {said}{tab}", mark.line + 1 if mark else 1)


def _line(node: Node) -> int:
    return int(node.start_mark.line) + 1


def _value(node: Node, path: Path, lines: dict[Path, int]) -> Any:
    if isinstance(node, ScalarNode):
        return _scalar(node, path)
    if isinstance(node, MappingNode):
        return _mapping(node, path, lines)
    items = list(enumerate(node.value))
    lines.update({(*path, place): _line(each) for place, each in items})
    return [_value(each, (*path, place), lines) for place, each in items]


def _mapping(node: MappingNode, path: Path, lines: dict[Path, int]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for named, value in node.value:
        key = _key(named, path)
        if key in found:
            first = lines[(*path, key)]
            raise DocumentError(
                f"is there twice, first in line {first}; keep one", _line(named), dotted(path, key)
            )
        lines[(*path, key)] = _line(named)
        found[key] = _value(value, (*path, key), lines)
    return found


_HALVES = re.compile("[\ud800-\udfff]")


def _whole(text: str, node: Node, path: Path) -> str:
    """Text without halves of a surrogate pair, which `\ud800` in quotes makes and no file holds."""
    if _HALVES.search(text):
        raise DocumentError(
            "has half of a surrogate pair, which is no character; write the character itself",
            _line(node),
            dotted(path),
        )
    return text


def _key(node: Node, path: Path) -> str:
    if not isinstance(node, ScalarNode) or (
        node.tag != f"{_TAG}str" and node.style not in {"'", '"'}
    ):
        shown = getattr(node, "value", "")
        shown = shown if isinstance(shown, str) else "a collection"
        raise DocumentError(
            f"has the key {shown[:40]}, which is not text; put it in quotes",
            _line(node),
            dotted(path),
        )
    return _whole(str(node.value), node, path)


def _scalar(node: ScalarNode, path: Path) -> str | int | float | bool | None:
    kind, text = str(node.tag).removeprefix(_TAG), str(node.value)
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    if kind in {"int", "float"}:
        return _number(node, text, path)
    return _whole(text, node, path)


def _number(node: ScalarNode, text: str, path: Path) -> int | float:
    if _INTEGER.fullmatch(text) and len(text) <= _DIGITS:
        return int(text)
    if _DECIMAL.fullmatch(text) and not _INTEGER.fullmatch(text) and math.isfinite(float(text)):
        return float(text)
    if _DECIMAL.fullmatch(text) or _NOT_FINITE.fullmatch(text):
        rule = f"a number here is finite and has at most {_DIGITS} digits"
    else:
        rule = "programs read that differently: write it in decimal, or as text in quotes"
    raise DocumentError(f"is {text[:40]}; {rule}", _line(node), dotted(path))


def dotted(path: Path, *more: str | int) -> str:
    """`model.inputs[0].name`."""
    text = ""
    for each in (*path, *more):
        text += f"[{each}]" if isinstance(each, int) else f".{each}" if text else each
    return text
