"""A manifest from a file, or why it is none: one line for each rule that it breaks."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from xsp.errors import ManifestError
from xsp.evaluation.manifest.document import LARGEST_BYTES, Document, DocumentError, dotted, parse
from xsp.evaluation.manifest.document import Path as Key
from xsp.evaluation.manifest.faults import in_words, meant, path_of
from xsp.evaluation.manifest.meaning import faults
from xsp.evaluation.manifest.model import Manifest

_MOST = 20
"""Faults that are told at most."""


def read_manifest(path: str | os.PathLike[str]) -> Manifest:
    """The manifest in a YAML 1.2 file. Nothing is run, fetched or opened but this file.

    Raises ManifestError with a line `file:line key: what` for each rule that is broken.
    """
    named = Path(path)
    return manifest_of(_content(named), str(path))


def manifest_of(raw: bytes, name: str, *, lines: bool = True) -> Manifest:
    """The manifest in a text; `name` is what its faults are told under, with `lines` where the text
    is one that somebody wrote.
    """
    try:
        document = parse(raw)
    except DocumentError as error:
        raise ManifestError(_line(name, error.line, error.key, error.what)) from error
    if not isinstance(document.content, dict):
        kind = "a list" if isinstance(document.content, list) else "a single value"
        raise ManifestError(
            _line(name, 1, "", f"is {kind}; a manifest is a mapping that begins with `xsp: 1`")
        )
    return _checked(document, name, lines)


def manifest_from_record(text: str) -> Manifest:
    """The manifest that a record has, as its canonical JSON. Raises ManifestError."""
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        raise ManifestError(
            f"the recorded manifest is not one of this version of xsp ({first['msg']}); use the "
            "version that the record names"
        ) from error


def schema() -> dict[str, Any]:
    """The JSON schema of manifests (draft 2020-12), for editors and other programs."""
    found = Manifest.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **found}


def _content(named: Path) -> bytes:
    try:
        with named.open("rb") as file:
            return file.read(LARGEST_BYTES + 1)
    except OSError as error:
        raise ManifestError(
            f"{named} cannot be read ({error.strerror}); name a manifest, a YAML file"
        ) from error


def _checked(document: Document, name: str, numbered: bool) -> Manifest:
    try:
        manifest = Manifest.model_validate_json(json.dumps(document.content))
    except ValidationError as error:
        found = [(path_of(each, document.content), each) for each in error.errors()]
        lines = [(path, in_words(each, path, Manifest)) for path, each in _first_causes(found)]
    else:
        lines = list(faults(manifest))
        if not lines:
            return manifest
    told = [
        _line(name, _line_of(document, path) if numbered else None, dotted(path), what)
        for path, what in lines
    ]
    more = [f"and {len(told) - _MOST} more"] if len(told) > _MOST else []
    raise ManifestError("\n".join([*told[:_MOST], *more]))


def _first_causes(found: list[tuple[Key, ErrorDetails]]) -> list[tuple[Key, ErrorDetails]]:
    """One for each place, without those that follow from another: a list that is too short because
    an item is wrong, a key that is missing because it is misspelt.
    """
    paths = {path for path, _ in found}
    misspelt = {(*path[:-1], meant(error, path, Manifest)) for path, error in found}
    kept: dict[Key, ErrorDetails] = {}
    for path, error in found:
        deeper = any(other[: len(path)] == path and other != path for other in paths)
        if not (error["type"] == "too_short" and deeper) and path not in misspelt:
            kept.setdefault(path, error)
    return list(kept.items())


def _line_of(document: Document, path: Key) -> int:
    """The line of a value, or of the part that it is missing from."""
    while path not in document.lines:
        path = path[:-1]
    return document.lines[path]


def _line(name: str, line: int | None, key: str, what: str) -> str:
    place = f"{name}:" if line is None else f"{name}:{line}"
    return f"{place} {key}: {what}" if key else f"{place} {what}"
