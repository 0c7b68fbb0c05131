"""What loadgen wrote: its verdict, its errors, and when each query was scheduled."""

from __future__ import annotations

import gzip
import json
import re
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from xsp.errors import EvaluationError

SUMMARY, DETAIL, TRACE = (
    "mlperf_log_summary.txt",
    "mlperf_log_detail.txt",
    "mlperf_log_trace.json",
)
_RESULT = re.compile(r"^Result is : (\w+)", re.MULTILINE)
_ORIGIN = re.compile(r'^"ts":(\d+)\.(\d{3})', re.MULTILINE)
# Lines of the trace: the file as a whole is no valid JSON.
_SAMPLE = re.compile(
    r'"name":"Sample","cat":"default","ph":"b".*?"ts":(\d+)\.(\d{3}).*?"query_seq":(\d+)'
)
_LINE = ":::MLLOG "


class Verdict(NamedTuple):
    """What loadgen says of a test, and the errors in its log."""

    valid: bool
    said: tuple[str, ...]


def verdict(folder: Path) -> Verdict:
    """Read loadgen's summary and detail log. Raises EvaluationError where it wrote no result."""
    summary = _text(folder / SUMMARY)
    result = _RESULT.search(summary)
    if result is None:
        raise _not_ended(f"loadgen wrote no result to {str(folder / SUMMARY)!r}")
    said = [line.strip(" *") for line in summary.splitlines() if line.startswith(" * ")]
    return Verdict(result[1] == "VALID", (*said, *_errors(folder / DETAIL)))


def _not_ended(seen: str) -> EvaluationError:
    return EvaluationError(f"{seen}: the test did not end; run it again")


def _errors(path: Path) -> list[str]:
    """Values of the lines that are marked as errors."""
    lines = [line for line in _text(path).splitlines() if '"is_error": true' in line]
    found = []
    for line in lines:
        try:
            entry = json.loads(line.removeprefix(_LINE))
        except ValueError:
            continue
        found.append(str(entry.get("value", "")).strip())
    return found


def scheduled_unix_ns(folder: Path) -> npt.NDArray[np.int64]:
    """When each query was scheduled, int64 [queries] in the order of issue, unix time; 0 where the
    trace does not have it.
    """
    text = _text(folder / TRACE)
    origin = _ORIGIN.search(text)
    if origin is None:
        raise _not_ended(f"loadgen's trace {str(folder / TRACE)!r} has no end")
    origin_ns = 1000 * int(origin[1]) + int(origin[2])
    found = np.array(_SAMPLE.findall(text), dtype=np.int64).reshape(-1, 3)
    query = found[:, 2]
    scheduled = np.zeros(int(query.max(initial=-1)) + 1, dtype=np.int64)
    scheduled[query] = origin_ns + 1000 * found[:, 0] + found[:, 1]
    return scheduled


def keep_compressed(folder: Path) -> None:
    """Compress the trace, a kilobyte for each query, once it is read."""
    trace = folder / TRACE
    with trace.open("rb") as plain, gzip.open(f"{trace}.gz", "wb", compresslevel=1) as packed:
        shutil.copyfileobj(plain, packed)
    trace.unlink()


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError as error:
        raise EvaluationError(
            f"loadgen's log {str(path)!r} cannot be read ({error.strerror}): the test did not end; "
            "run it again"
        ) from error
