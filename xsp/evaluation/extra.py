"""Packages that only an extra of xsp brings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from xsp.errors import EvaluationError

_OWN = {"torch": "torch", "plotly": "html", "psycopg": "postgresql", "onnx": "onnx"}
"""Packages that have an extra of their own."""


@contextmanager
def needed(what: str, extra: str = "evaluation") -> Iterator[None]:
    """Raises EvaluationError, which names the extra, where a package cannot be imported."""
    try:
        yield
    except ModuleNotFoundError as error:
        missing = (error.name or str(error)).partition(".")[0]
        if missing == "xsp":
            raise
        extra = _OWN.get(missing, extra)
        raise EvaluationError(
            f'{what} needs the package {missing!r}, which is not installed: pip install "xsp'
            f'[{extra}]"'
        ) from error
