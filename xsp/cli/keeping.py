"""What was measured is kept: targets are checked before, and another place is found afterwards."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import typer

from xsp.capture.writing import writable, write_file
from xsp.errors import WriteError, XspError


def new_file(path: Path, force: bool) -> Path:
    """`path` if a file can be written there: asked before measuring, which takes long.

    Raises XspError where a file would be lost, and WriteError where none can be written.
    """
    if path.is_file() and not force:
        raise XspError(
            f"{str(path)!r} exists already; overwrite it with --force, or choose another file "
            "with --output"
        )
    return writable(path)


def new_folder(path: Path) -> None:
    """Make a folder where there is none. Raises WriteError where that cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(
            f"the folder {str(path)!r} cannot be made ({error.strerror}); choose another place"
        ) from error


def keep(save: Callable[[Path], Path], path: Path) -> Path:
    """Save what was measured to `path`, or to a new folder for temporary files where that fails.

    Raises WriteError in both cases; it says where the measurement lies, if it could be saved.
    """
    try:
        return save(path)
    except WriteError as error:
        raise WriteError(f"{error}. {_elsewhere(save, path.name)}") from error


def _elsewhere(save: Callable[[Path], Path], name: str) -> str:
    try:
        saved = save(Path(tempfile.mkdtemp(prefix="xsp-")) / name)
    except (OSError, WriteError) as error:
        return f"The measurement is lost: it could not be kept elsewhere either ({error})"
    return f"The measurement is kept in {str(saved)!r}: move it"


def put(text: str, path: Path | None) -> None:
    """Write a text to a file, and say so; without one, to standard output.

    Raises WriteError where it cannot be written.
    """
    if path is None:
        typer.echo(text, nl=False)
    else:
        typer.echo(f"written to {write_file(path, text.encode())}")


def checked_all(*paths: Path | None) -> None:
    """Raises WriteError for the first file that cannot be written; None stands for no file."""
    for path in paths:
        if path is not None:
            writable(path)
