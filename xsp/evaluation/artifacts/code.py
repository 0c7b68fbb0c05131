"""Python functions that a manifest names. They run only where code is allowed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from importlib.machinery import SourceFileLoader
from types import ModuleType
from typing import Any

from xsp.errors import EvaluationError
from xsp.evaluation.artifacts.store import ArtifactStore
from xsp.evaluation.foreign_code import guarded
from xsp.evaluation.manifest.source import Code

REFUSED = (
    "{what} is code, which can do anything that you can; read it, then allow it with --allow-code "
    "(allow_code=True)"
)


def function_of(code: Code, store: ArtifactStore, *, allow_code: bool) -> Callable[..., Any]:
    """The function, imported. A file is taken from the store, by the checksum of the manifest.

    Raises EvaluationError where code is not allowed, and for what cannot be imported.
    """
    if not allow_code:
        raise EvaluationError(REFUSED.format(what=f"the function {code.function!r}"))
    place, _, name = code.function.rpartition(":")
    with guarded(f"{place!r} cannot be imported"):
        module = _module(code, code.sha256, store) if code.sha256 else import_module(place)
    found = getattr(module, name, None)
    if not callable(found):
        raise EvaluationError(f"{place!r} has no function {name!r}")
    return found  # type: ignore[no-any-return] # it was checked


def _module(code: Code, sha256: str, store: ArtifactStore) -> Any:
    """A module by its content: two manifests' `steps.py` are two."""
    name = f"xsp_manifest_{sha256[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    path = store.get(sha256)
    if path is None:
        raise EvaluationError(f"{code.file!r} ({sha256}) is not in {store.folder}")
    loader = SourceFileLoader(name, str(path))
    module = ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module
    try:
        # No .pyc is written into the store. Its own path, where torch.jit.script finds the source.
        compiled = loader.source_to_code(path.read_bytes(), str(path))
        # Code is allowed here: the caller asked.
        exec(compiled, vars(module))  # noqa: S102 - what --allow-code allows
    except BaseException:
        del sys.modules[name]
        raise
    return module
