"""Where the bytes of an artifact come from: a file beside the manifest, an installed package, a
server.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO
from urllib.error import URLError
from urllib.request import HTTPRedirectHandler, build_opener

from xsp.errors import EvaluationError
from xsp.evaluation.manifest.artifact import Artifact, File, Packaged, Url

_PATIENCE_S = 60.0


@contextmanager
def opened(artifact: Artifact, base: Path | None, *, allow_fetch: bool) -> Iterator[BinaryIO]:
    """The artifact's bytes, not checked yet; `base` is the folder of the manifest.

    Raises EvaluationError where they cannot be had.
    """
    if isinstance(artifact, Url):
        with _fetched(artifact, allow_fetch) as file:
            yield file
        return
    path = _packaged(artifact) if isinstance(artifact, Packaged) else _beside(artifact, base)
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise EvaluationError(
            f"{described(artifact)} cannot be read ({error.strerror or error}): {str(path)!r}"
        ) from error


def described(artifact: Artifact) -> str:
    """The artifact as sentences name it."""
    if isinstance(artifact, Url):
        return f"the artifact {artifact.url}"
    if isinstance(artifact, Packaged):
        return f"the artifact {artifact.path!r} of {artifact.package} {artifact.version}"
    return f"the artifact {artifact.path!r}"


def inside(base: Path, path: str, what: str) -> Path:
    """`base / path`, symlinks followed, if it is below `base`. Raises EvaluationError."""
    root = Path(os.path.realpath(base))
    found = Path(os.path.realpath(root / path))
    escapes = PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts
    if escapes or root not in found.parents:
        raise EvaluationError(
            f"{what} leads out of {str(base)!r}; artifacts lie beside the manifest or below it"
        )
    if kind := _no_file(found):
        raise EvaluationError(f"{what} {kind}: {str(found)!r}; put it there, or change its path")
    return found


def _no_file(found: Path) -> str:
    """Why a path is no file; empty where it is one."""
    try:
        if found.is_file():
            return ""
        return "is not a regular file" if found.exists() else "does not exist"
    except OSError as error:  # a name that is too long for the file system
        return f"cannot be looked for ({error.strerror})"


def _beside(artifact: File, base: Path | None) -> Path:
    if base is None:
        raise EvaluationError(
            f"{described(artifact)} ({artifact.sha256}) is not in the artifact store, and a record "
            "does not say where else it is; evaluate its manifest here once, or copy the store"
        )
    return inside(base, artifact.path, described(artifact))


def _packaged(artifact: Packaged) -> Path:
    try:
        found = distribution(artifact.package)
    except PackageNotFoundError as error:
        raise EvaluationError(
            f"the package {artifact.package!r} is not installed: pip install "
            f"{artifact.package}=={artifact.version}"
        ) from error
    if found.version != artifact.version:
        raise EvaluationError(
            f"the package {artifact.package!r} has version {found.version} here, but the manifest "
            f"names {artifact.version}: pip install {artifact.package}=={artifact.version}"
        )
    return _file_of(found, artifact)


def _file_of(found: Distribution, artifact: Packaged) -> Path:
    listed = {str(each) for each in found.files or ()}
    if artifact.path not in listed:
        raise EvaluationError(
            f"the package {artifact.package!r} {artifact.version} has no file {artifact.path!r}"
        )
    return inside(Path(str(found.locate_file(""))), artifact.path, described(artifact))


class _OnlyHttps(HTTPRedirectHandler):
    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Any:
        """Follow a redirection to https, no other: a server must not lead to local files."""
        if not newurl.startswith("https://"):
            raise URLError(f"it redirects to {newurl}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


@contextmanager
def _fetched(artifact: Url, allowed: bool) -> Iterator[BinaryIO]:
    if not allowed:
        raise EvaluationError(
            f"{described(artifact)} is not in the artifact store, and nothing is fetched without "
            "being asked; allow it with --allow-fetch (allow_fetch=True)"
        )
    try:
        with build_opener(_OnlyHttps).open(artifact.url, timeout=_PATIENCE_S) as response:
            yield response
    except (URLError, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", error)
        raise EvaluationError(f"{described(artifact)} cannot be fetched: {reason}") from error
