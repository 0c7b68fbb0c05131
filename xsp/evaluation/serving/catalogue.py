"""What can be started from the page: the manifests of a folder, predictors, kinds of scenarios."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from xsp.errors import EvaluationError, ManifestError
from xsp.evaluation.artifacts.gathering import code_in
from xsp.evaluation.manifest.model import Manifest
from xsp.evaluation.manifest.reading import read_manifest

SUFFIXES = frozenset({".yaml", ".yml", ".json"})


@dataclass(frozen=True)
class Entry:
    """A file of the folder; `fault` says why it is no manifest."""

    file: str
    manifest: Manifest | None
    fault: str = ""

    @property
    def runs_code(self) -> bool:
        """Whether it can only be started where code is allowed."""
        if self.manifest is None:
            return False
        # An exported program has pickles.
        return bool(code_in(self.manifest)) or self.manifest.model.source.kind == "exported"


class Catalogue:
    """The manifests below a folder. Files are read again when they have changed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._read: dict[Path, tuple[tuple[int, int], Entry]] = {}

    def entries(self) -> list[Entry]:
        """By file name; hidden files and folders are left out."""
        return [self._entry(path) for path in self._files()]

    def path(self, file: str) -> Path:
        """The path of an entry. Raises EvaluationError for what is not one."""
        known = {self._name(path): path for path in self._files()}
        if file not in known:
            raise EvaluationError(
                f"there is no manifest {file!r} in {self.folder}; it has "
                f"{', '.join(known) or 'none'}"
            )
        return known[file]

    def _files(self) -> list[Path]:
        return sorted(
            path
            for path in self.folder.rglob("*")
            if path.suffix in SUFFIXES
            and path.is_file()
            and not any(part.startswith(".") for part in path.relative_to(self.folder).parts)
        )

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()

    def _entry(self, path: Path) -> Entry:
        state = path.stat()
        stamp = (state.st_mtime_ns, state.st_size)
        if self._read.get(path, (None,))[0] != stamp:
            self._read[path] = (stamp, self._fresh(path))
        return self._read[path][1]

    def _fresh(self, path: Path) -> Entry:
        try:
            return Entry(self._name(path), read_manifest(path))
        except ManifestError as error:
            return Entry(self._name(path), None, str(error))
