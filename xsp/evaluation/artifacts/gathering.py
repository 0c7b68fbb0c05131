"""Everything that a manifest names, brought into the store before anything runs."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TypeVar

from xsp.errors import EvaluationError
from xsp.evaluation.artifacts.archives import member
from xsp.evaluation.artifacts.places import described, inside, opened
from xsp.evaluation.artifacts.store import ArtifactStore
from xsp.evaluation.manifest.artifact import Artifact, File, Packaged, Url
from xsp.evaluation.manifest.model import Manifest
from xsp.evaluation.manifest.rules import Part
from xsp.evaluation.manifest.source import Code, PythonModel

_AnyPart = TypeVar("_AnyPart", bound=Part)


def gather(
    manifest: Manifest, base: Path | None, store: ArtifactStore, *, allow_fetch: bool = False
) -> Manifest:
    """Put every artifact and file of code into the store; returns the manifest with the checksum of
    each file of code, which then says all that is needed to run it.

    `base` is the folder of the manifest's file, None where only the store has them.

    Raises EvaluationError for what cannot be had or is another file, WriteError where the disk
    refuses.
    """
    for artifact in artifacts_of(manifest):
        _bring(artifact, base, store, allow_fetch)
    return _pinned(manifest, base, store)


def artifacts_of(part: Part) -> list[Artifact]:
    """Every artifact below a part of a manifest."""
    found: list[Artifact] = []
    for value in _values(part):
        if isinstance(value, (File, Packaged, Url)):
            found.append(value)
        elif isinstance(value, Part):
            found += artifacts_of(value)
    return found


def code_files(manifest: Manifest, store: ArtifactStore) -> dict[str, bytes]:
    """The Python files of a gathered manifest, by checksum."""
    found: dict[str, bytes] = {}
    for code in code_in(manifest):
        path = None if code.sha256 is None else store.get(code.sha256)
        if code.sha256 is not None and path is not None:
            found[code.sha256] = path.read_bytes()
    return found


def code_in(part: Part) -> list[Code]:
    """All Python that is named below a part of a manifest."""
    found: list[Code] = []
    for value in _values(part):
        if isinstance(value, Code):
            found.append(value)
        elif isinstance(value, Part):
            found += code_in(value)
    return found


def file_of(artifact: Artifact, store: ArtifactStore) -> Path:
    """The file of a gathered artifact; a member of an archive is unpacked again, into the store.

    Raises EvaluationError.
    """
    path = store.get(artifact.sha256)
    if path is None:
        raise EvaluationError(f"{described(artifact)} is not in {store.folder}")
    if artifact.member is None:
        return path
    with member(path, artifact.member) as file:
        digest = store.put(file, what=f"the member {artifact.member!r}")  # type: ignore[arg-type] # it reads
    return store.place(digest)


def _bring(artifact: Artifact, base: Path | None, store: ArtifactStore, allow_fetch: bool) -> None:
    if store.get(artifact.sha256) is None:
        with opened(artifact, base, allow_fetch=allow_fetch) as file:
            store.put(file, artifact.sha256, what=described(artifact))
    file_of(artifact, store)


def _values(part: Part) -> list[object]:
    values: list[object] = []
    for name in type(part).model_fields:
        value = getattr(part, name)
        if isinstance(value, (tuple, list)):
            values += value
        elif isinstance(value, dict):
            values += value.values()
        else:
            values.append(value)
    return values


def _pinned(manifest: Manifest, base: Path | None, store: ArtifactStore) -> Manifest:
    model, data = manifest.model, manifest.dataset
    source = model.source
    if isinstance(source, PythonModel):
        source = _with(source, make=_pin(source.make, base, store))
    model = _with(
        model,
        source=source,
        preprocess=_pin(model.preprocess, base, store),
        postprocess=_pin(model.postprocess, base, store),
    )
    if data.kind == "python":
        data = _with(data, make=_pin(data.make, base, store))
    return _with(manifest, model=model, dataset=data)


def _pin(code: Code | None, base: Path | None, store: ArtifactStore) -> Code | None:
    if code is None or code.file is None:
        return code
    if code.sha256 is not None and store.get(code.sha256) is not None:
        return code
    what = f"the code {code.file!r}"
    if base is None:
        raise EvaluationError(f"{what} is not in {store.folder}; evaluate its manifest here once")
    content = inside(base, code.file, what).read_bytes()
    return _with(code, sha256=store.put(io.BytesIO(content), code.sha256, what=what))


def _with(part: _AnyPart, **changes: object) -> _AnyPart:
    return part.model_copy(update=changes)
