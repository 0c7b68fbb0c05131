"""A model evaluated as a manifest specifies it: any runtime, any scenario, everything kept.

It follows MLModelScope (Dakkak et al., CLOUD 2020). What it is built on is in the extra
`evaluation`; `Missing` says in one sentence which package is not there.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xsp.evaluation.manifest.model import Manifest as Manifest
    from xsp.evaluation.manifest.reading import read_manifest as read_manifest
    from xsp.evaluation.records.comparison import compare as compare
    from xsp.evaluation.records.evaluation import Evaluation as Evaluation
    from xsp.evaluation.records.reading import evaluations as evaluations
    from xsp.evaluation.records.reading import read as read
    from xsp.evaluation.repeating import repeat as repeat
    from xsp.evaluation.running import evaluate as evaluate

__all__ = [
    "Evaluation",
    "Manifest",
    "compare",
    "evaluate",
    "evaluations",
    "read",
    "read_manifest",
    "repeat",
]

_HOME = {
    "Evaluation": "records.evaluation",
    "Manifest": "manifest.model",
    "compare": "records.comparison",
    "evaluate": "running",
    "evaluations": "records.reading",
    "read": "records.reading",
    "read_manifest": "manifest.reading",
    "repeat": "repeating",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'xsp.evaluation' has no attribute {name!r}")
    from xsp.evaluation.extra import needed

    with needed("xsp.evaluation"):
        return getattr(import_module(f"xsp.evaluation.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
