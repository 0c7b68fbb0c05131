"""One file out of a .zip or .tar archive. Nothing else is unpacked, and the file's name in the
archive does not choose where it goes.
"""

from __future__ import annotations

import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from xsp.errors import EvaluationError

LARGEST_BYTES = 1 << 36
"""64 GiB: more than any model, less than a bomb."""
_RATIO = 1000
"""How many times its packed size a member may have: deflate reaches 1032 on zeros."""


@contextmanager
def member(archive: Path, name: str) -> Iterator[IO[bytes]]:
    """The member of this name, open for reading.

    Raises EvaluationError for names that lead out of the archive, links, members that are not
    there, bombs and damaged archives.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or path.parts[:1] == ("~",):
        raise EvaluationError(f"the member {name!r} leads out of its archive; name a file in it")
    try:
        with _opened(archive, name) as file:
            yield file
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, RuntimeError) as error:
        said = str(error).partition(chr(10))[0].rstrip(":")
        raise EvaluationError(
            f"the archive of {name!r} is damaged, encrypted or of another kind ({said}); give a "
            ".zip or .tar file"
        ) from error


@contextmanager
def _opened(archive: Path, name: str) -> Iterator[IO[bytes]]:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as zipped, zipped.open(_zip_member(zipped, name)) as file:
            yield file
        return
    with tarfile.open(archive) as tar:
        found = tar.extractfile(_tar_member(tar, name))
        if found is None:
            raise EvaluationError(_no_file(name))
        with found:
            yield found


def _zip_member(zipped: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    matching = [each for each in zipped.infolist() if each.filename == name]
    _one(len(matching), name, zipped.namelist())
    found = matching[0]
    symlink = (found.external_attr >> 16) & 0o170000 == 0o120000
    if found.is_dir() or symlink:
        raise EvaluationError(_no_file(name))
    if found.file_size > LARGEST_BYTES or found.file_size > _RATIO * max(found.compress_size, 4096):
        raise EvaluationError(
            f"the member {name!r} unpacks from {found.compress_size} to {found.file_size} bytes; "
            "that is a bomb, no model"
        )
    return found


def _tar_member(tar: tarfile.TarFile, name: str) -> tarfile.TarInfo:
    members = tar.getmembers()
    matching = [each for each in members if each.name == name]
    _one(len(matching), name, [each.name for each in members])
    if not matching[0].isreg():
        raise EvaluationError(_no_file(name))
    return matching[0]


def _one(count: int, name: str, names: list[str]) -> None:
    if count != 1:
        there = f"{count} times" if count else f"not; it has {', '.join(names[:5])}"
        raise EvaluationError(f"the archive must have the member {name!r} once, but has it {there}")


def _no_file(name: str) -> str:
    return f"the member {name!r} is a folder or a link, no file; name a file in the archive"
