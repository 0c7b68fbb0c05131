"""Code that is not xsp's: a manifest's Python, a model, a runtime. Whatever it raises becomes an
EvaluationError in one line.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from xsp.errors import EvaluationError, XspError

_LONGEST = 300
"""Characters of what was raised that are told."""


def told(error: BaseException) -> str:
    """The kind of an error and the first line that it says."""
    lines = str(error).strip().splitlines()
    kind = type(error).__name__
    return f"{kind}: {lines[0][:_LONGEST]}" if lines else kind


@contextmanager
def guarded(what: str) -> Iterator[None]:
    """Raises EvaluationError, `what` and in brackets the error, for whatever is raised inside, for
    sys.exit too, which would end this program as if all were well. xsp's own errors stay what they
    are, and Ctrl-C ends the program.
    """
    try:
        yield
    except XspError:
        raise
    except (Exception, SystemExit) as error:
        raise EvaluationError(f"{what} ({told(error)})") from error
