"""Packages that only an extra of xsp brings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from xsp.errors import EvaluationError


@contextmanager
def needed(what: str, extra: str = "evaluation") -> Iterator[None]:
    """Raises EvaluationError, which names the extra, where a package cannot be imported."""
    try:
        yield
    except ModuleNotFoundError as error:
        missing = error.name or str(error)
        if missing.partition(".")[0] == "xsp":
            raise
        raise EvaluationError(
            f'{what} needs the package {missing!r}, which is not installed: pip install "xsp'
            f'[{extra}]"'
        ) from error
