"""A manifest from a file."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from xsp.errors import ManifestError
from xsp.evaluation.manifest.model import Manifest


def read_manifest(path: str | os.PathLike[str]) -> Manifest:
    """The manifest in a YAML 1.2 file. Raises ManifestError with a line for each rule broken."""
    text = Path(path).read_text("utf-8")
    try:
        return Manifest.model_validate_json(_json(text))
    except (YAMLError, ValidationError) as error:
        raise ManifestError(f"{path}: {error}") from error


def _json(text: str) -> str:
    import json

    return json.dumps(YAML(typ="safe", pure=True).load(text))
