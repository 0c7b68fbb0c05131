"""Files of trace events (JSON), and the one process of the host that a profile is of."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections import Counter
from collections.abc import Collection
from decimal import Decimal
from pathlib import Path
from typing import Any

from xsp.capture.limits import most_bytes, within
from xsp.errors import CaptureError
from xsp.words.slugs import with_slug

Event = dict[str, Any]

HOST = ("cpu_op", "user_annotation", "python_function", "cuda_runtime", "cuda_driver")
"""Categories of what happened on the host."""


def document_of(source: Path) -> dict[str, Any]:
    """The trace in a file, plain or compressed. Raises CaptureError if it is missing or
    no trace.
    """
    if not source.is_file():
        raise CaptureError(
            f"there is no file {str(source)!r}; give a trace written by export_chrome_trace"
        )
    try:
        text = whole_surrogates(_content(source).decode(errors="replace"))
        # Stamps have more digits than a double holds.
        # Some releases of Kineto write names with control characters in them.
        found = json.loads(text, parse_float=Decimal, strict=False)
    except (ValueError, OSError, EOFError, zlib.error, RecursionError) as error:
        raise CaptureError(
            f"{str(source)!r} is not JSON, or was cut short ({type(error).__name__}: {error}); "
            "give a trace written by "
            "export_chrome_trace, *.json or *.json.gz"
        ) from error
    document = {"traceEvents": found} if isinstance(found, list) else found
    if not isinstance(document, dict) or not isinstance(document.get("traceEvents"), list):
        raise CaptureError(
            f"{str(source)!r} is JSON but not a trace: it has no list `traceEvents`; give a file "
            "written by "
            "export_chrome_trace"
        )
    return document


def _content(source: Path) -> bytes:
    """What a file holds, unpacked. Raises CaptureError beyond the limit (`limits.most_bytes`)."""
    most = most_bytes()
    with source.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        content = (gzip.GzipFile(fileobj=file) if packed else file).read(most + 1)
    within(len(content), most, f"the trace in {str(source)!r}")
    return content


_ESCAPED = re.compile(
    r"(\\\\|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})"
    r"|\\u[dD][89a-fA-F][0-9a-fA-F]{2}"
)


def whole_surrogates(text: str) -> str:
    """JSON in which halves of surrogate pairs stand for the replacement character.

    Names that were cut in the middle of a character have such halves, which are no Unicode.
    """
    if "\\ud" not in text and "\\uD" not in text:
        return text
    return _ESCAPED.sub(lambda found: found[1] or "\\ufffd", text)


def of_one_process(by_category: dict[str, list[Event]], launching: Collection[str]) -> list[str]:
    """Leave only one process's events in the host's categories: that with most calls of the
    `launching` categories.

    Threads are told apart by their number, which two processes can share. Returns a warning if any
    was left out.
    """
    counts = Counter(event["pid"] for category in HOST for event in by_category.get(category, []))
    if len(counts) < 2:
        return []
    launches = Counter(
        event["pid"] for category in launching for event in by_category.get(category, [])
    )
    chosen = max(counts, key=lambda process: (launches[process], counts[process]))
    for category in HOST:
        if category in by_category:
            by_category[category] = [
                event for event in by_category[category] if event["pid"] == chosen
            ]
    sentence = (
        f"the trace has {len(counts)} processes; only {chosen} is taken, and kernels are matched "
        "to its launches by ids that another process may have used too: import one process's "
        "trace at a time"
    )
    return [with_slug("several-processes", sentence)]
