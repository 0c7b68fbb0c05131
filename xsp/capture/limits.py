"""How large what is opened may be: asked before it is read, so that a small file cannot take all
memory.
"""

from __future__ import annotations

import os
from pathlib import Path

from xsp.errors import CaptureError, XspError

VARIABLE = "XSP_MAX_BYTES"
MAX_BYTES = 1 << 30
"""Memory that the tables of a capture, or the text of a trace, may take: 1 GiB, which is some
25 million spans.
"""

_SHARE_OF_TEXT = 64
"""JSON takes up to this many times its length as Python's objects: a manifest and a baseline may
have this part of `max_bytes`, 16 MiB by default.
"""


def most_bytes(given: int | None = None) -> int:
    """The limit: what was given, else what XSP_MAX_BYTES says, else MAX_BYTES.

    Raises XspError for what is not a whole number above 0.
    """
    told = os.environ.get(VARIABLE, "") if given is None else given
    if told == "":
        return MAX_BYTES
    number = int(told) if isinstance(told, str) and told.isdecimal() else told
    if type(number) is not int or number < 1:
        name = VARIABLE if given is None else "max_bytes"
        raise XspError(f"{name} must be a whole number of bytes > 0, not {told!r}")
    return number


def most_json(max_bytes: int) -> int:
    """The limit of JSON that is read at once."""
    return max_bytes // _SHARE_OF_TEXT


def within(size: int, most: int, what: str) -> None:
    """Raises CaptureError if `what` has more than `most` bytes."""
    if size > most:
        raise CaptureError(
            f"{what} has {size:,} bytes, more than the limit of {most:,}: a file made to do harm "
            f"could fill the memory; if you trust this one, raise the limit with {VARIABLE} or "
            "max_bytes="
        )


def text_of(path: Path) -> str:
    """The text of a small JSON file. Raises CaptureError for one beyond `most_json`, OSError and
    UnicodeDecodeError as reading does.
    """
    most = most_json(most_bytes())
    with path.open("rb") as file:
        content = file.read(most + 1)
    within(len(content) if len(content) <= most else path.stat().st_size, most, f"{str(path)!r}")
    return content.decode()
