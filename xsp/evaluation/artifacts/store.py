"""Files kept by their sha256: what was checked once is found again, for any manifest.

A file is at `FOLDER/ab/abcdef…`, where the name is its checksum. It is checked again each time that
it is taken out.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from xsp.capture.writing import replacing
from xsp.errors import EvaluationError, WriteError

_BLOCK = 1 << 20


def default_folder() -> Path:
    """XSP_ARTIFACTS, else `xsp/artifacts` in the user's data folder (XDG Base Directory
    Specification).
    """
    if given := os.environ.get("XSP_ARTIFACTS"):
        return Path(given)
    data = os.environ.get("XDG_DATA_HOME", "")
    folder = Path(data) if os.path.isabs(data) else Path.home() / ".local" / "share"
    return folder / "xsp" / "artifacts"


class ArtifactStore:
    """A folder of files by checksum. Several processes can use one at a time."""

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        self.folder = Path(folder) if folder is not None else default_folder()

    def place(self, sha256: str) -> Path:
        """Where a file of this checksum is, or would be."""
        return self.folder / sha256[:2] / sha256

    def get(self, sha256: str) -> Path | None:
        """The file of this checksum, None if it is not here.

        Raises EvaluationError where it was changed since it was put here.
        """
        path = self.place(sha256)
        if not path.is_file():
            return None
        found = checksum(path)
        if found != sha256:
            raise EvaluationError(
                f"the stored artifact {str(path)!r} is damaged: its sha256 is {found}; delete it "
                "and evaluate the manifest again, which puts it back"
            )
        return path

    def put(self, file: BinaryIO, sha256: str | None = None, *, what: str) -> str:
        """Copy what can be read from an open file; returns its sha256.

        Raises EvaluationError where that is not the one given, and WriteError where the disk
        refuses; nothing is kept then.
        """
        digest = hashlib.sha256()
        self._make(self.folder)
        incoming = self.folder / f"incoming-{os.getpid()}-{os.urandom(4).hex()}"
        try:
            with replacing(incoming) as copy:
                while block := file.read(_BLOCK):
                    digest.update(block)
                    copy.write(block)
            return self._accepted(incoming, digest.hexdigest(), sha256, what)
        finally:
            incoming.unlink(missing_ok=True)

    def beside(self, names: Mapping[str, str]) -> Path:
        """A folder in which files of the store have these names, by name their sha256: formats that
        refer to other files need them beside each other.
        """
        listed = "\n".join(f"{name} {names[name]}" for name in sorted(names))
        folder = self.folder / "sets" / hashlib.sha256(listed.encode()).hexdigest()[:32]
        for name, sha256 in names.items():
            source, target = self.get(sha256), folder / name
            if source is None:
                raise EvaluationError(f"the artifact {name!r} ({sha256}) is not in {self.folder}")
            self._make(target.parent)
            if not (target.is_file() and target.samefile(source)):
                self._link(source, target)
        return folder

    def _accepted(self, incoming: Path, found: str, wanted: str | None, what: str) -> str:
        if wanted is not None and found != wanted:
            raise EvaluationError(
                f"{what} has the sha256 {found}, not {wanted} as the manifest says; it is another "
                "file, or was changed"
            )
        target = self.place(found)
        self._make(target.parent)
        try:
            incoming.replace(target)
        except OSError as error:
            raise _unwritable(target, error) from error
        return found

    def _link(self, source: Path, target: Path) -> None:
        partial = target.with_name(f".{os.urandom(6).hex()}")
        try:
            try:
                os.link(source, partial)
            except OSError:  # another file system, or one without links
                shutil.copyfile(source, partial)
            partial.replace(target)
        except OSError as error:
            raise _unwritable(target, error) from error
        finally:
            partial.unlink(missing_ok=True)

    def _make(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unwritable(folder, error) from error


def checksum(path: Path) -> str:
    """sha256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _unwritable(path: Path, error: OSError) -> WriteError:
    return WriteError(
        f"the artifact store cannot write {str(path)!r}: {error.strerror or error}; name another "
        "folder in XSP_ARTIFACTS, or check permissions and free space"
    )
