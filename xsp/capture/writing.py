"""The one way in which xsp writes files: whole or not there, and only over regular files.

What is written goes to a file of a unique name in the target's folder, to the disk, and then takes
the target's place in one step (rename(2)). Symlinks are followed, a file that is replaced keeps its
mode and, where the system allows it, its owner. Hard links to it and its extended attributes are
not kept.
"""

from __future__ import annotations

import gzip
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from xsp.errors import WriteError

_FAST = 5
"""Compression level: a third of the time of the default, a few per cent larger."""


def write_file(path: str | os.PathLike[str], content: bytes) -> Path:
    """Write `content`, compressed where the name ends in `.gz`, and return the path as given.

    Raises WriteError; see `replacing`.
    """
    named = Path(path)
    with replacing(named) as file:
        file.write(gzip.compress(content, _FAST, mtime=0) if named.suffix == ".gz" else content)
    return named


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A file open for writing that takes the place of `path` when the block ends without raising.

    Raises WriteError where there is no folder, where something stands at `path` that is not a
    regular file or may not be written, and where the disk refuses. Nothing is left behind then, and
    what stood at `path` is as it was.
    """
    named = Path(path)
    target, before = _destination(named)
    partial = target.parent / _unique()
    try:
        with _reported(named), _created(partial) as file:
            yield file
            file.flush()
            if before is not None:
                _like(file.fileno(), before)
            os.fsync(file.fileno())
        with _reported(named):
            partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    _sync_folder(target.parent)


@contextmanager
def staged_folder(path: str | os.PathLike[str], last: str) -> Iterator[Path]:
    """A new folder whose files move to the folder `path` when the block ends without raising.

    The file named `last` moves last, so that a folder which has it is complete. Files of other
    names that lie in `path` already stay. Raises WriteError as `replacing` does.
    """
    named = Path(path)
    target = Path(os.path.realpath(named))
    if target.exists() and not target.is_dir():
        raise WriteError(f"{str(named)!r} is a file, but a folder is needed; choose another name")
    with _reported(named):
        target.parent.mkdir(parents=True, exist_ok=True)
        staged = target.parent / _unique()
        staged.mkdir()
    try:
        yield staged
        with _reported(named):
            _moved(staged, target, last)
        _sync_folder(target)
    except WriteError as error:
        raise WriteError(str(error).replace(str(staged), str(named))) from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _moved(staged: Path, target: Path, last: str) -> None:
    if not target.exists():
        staged.rename(target)
        return
    names = sorted((each.name for each in staged.iterdir()), key=lambda name: name == last)
    destinations = {name: _destination(target / name)[0] for name in names}
    for name, destination in destinations.items():
        (staged / name).replace(destination)


def append_text(path: str | os.PathLike[str], text: str) -> Path:
    """Add `text` at the end of a file that several commands write to. Raises WriteError."""
    named = Path(path)
    _destination(named)
    with _reported(named), named.open("a", encoding="utf-8") as file:
        file.write(text)
    return named


def writable(path: str | os.PathLike[str]) -> Path:
    """`path`, if a file can be written there now: asked before work that takes minutes.

    A file is made beside it and taken away again. Raises WriteError as `replacing` does.
    """
    named = Path(path)
    target, _ = _destination(named)
    _try_folder(named, target.parent)
    return named


def writable_folder(path: str | os.PathLike[str]) -> Path:
    """`path`, if files can be written to this folder, or it can be made. Raises WriteError."""
    named = Path(path)
    folder = Path(os.path.realpath(named))
    if folder.exists() and not folder.is_dir():
        raise WriteError(f"{str(named)!r} is a file, but a folder is needed; choose another name")
    existing = next(each for each in (folder, *folder.parents) if each.exists())
    _try_folder(named, existing)
    return named


def _try_folder(named: Path, folder: Path) -> None:
    trial = folder / _unique()
    try:
        with _reported(named), _created(trial):
            pass
    finally:
        with suppress(OSError):
            trial.unlink(missing_ok=True)


def _destination(named: Path) -> tuple[Path, os.stat_result | None]:
    """Where a path leads, symlinks followed, and the file that stands there."""
    target = Path(os.path.realpath(named))
    try:
        found = target.stat()
    except FileNotFoundError:
        _folder_of(named, target)
        return target, None
    except OSError as error:
        raise _refused(named, error) from error
    if stat.S_ISDIR(found.st_mode):
        raise WriteError(f"{str(named)!r} is a directory; give the name of a file in it")
    if not stat.S_ISREG(found.st_mode):
        raise WriteError(
            f"{str(named)!r} is {_kind(found.st_mode)}, and only regular files can be replaced; "
            "write to a file and copy that there"
        )
    # By the given name: the kernel then judges the symlinks on the way as it does for any program.
    with _reported(named):
        os.close(os.open(named, os.O_WRONLY | os.O_NONBLOCK))
    return target, found


def _folder_of(named: Path, target: Path) -> None:
    if not target.parent.is_dir():
        raise WriteError(
            f"there is no directory {str(target.parent)!r} to write {named.name!r} to; create it "
            "first"
        )


def _kind(mode: int) -> str:
    if stat.S_ISFIFO(mode):
        return "a pipe"
    if stat.S_ISSOCK(mode):
        return "a socket"
    return "a device"


def _unique() -> str:
    """A name that nobody has, hidden, and short enough for every file system."""
    return f".xsp-{secrets.token_hex(8)}.partial"


def _created(path: Path) -> BinaryIO:
    """A new file with the mode of any new file; never one that is there already, nor one that a
    symlink of this name leads to (O_EXCL).
    """
    return path.open("xb")


def _like(descriptor: int, before: os.stat_result) -> None:
    """Take the replaced file's owner, then its mode, of which changing the owner clears bits."""
    made = os.fstat(descriptor)
    if (made.st_uid, made.st_gid) != (before.st_uid, before.st_gid):
        with suppress(OSError):
            os.fchown(descriptor, before.st_uid, before.st_gid)
    with suppress(OSError):  # file systems without modes
        os.fchmod(descriptor, stat.S_IMODE(before.st_mode))


def _sync_folder(folder: Path) -> None:
    """The new name on the disk too, where the file system can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def _reported(named: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _refused(named, error) from error


def _refused(named: Path, error: OSError) -> WriteError:
    reason = error.strerror or str(error) or type(error).__name__
    return WriteError(
        f"{str(named)!r} cannot be written: {reason}; choose another path, or check its "
        "permissions and free space"
    )
