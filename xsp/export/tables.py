"""A profile's tables as a folder of CSV or Parquet files, for programs that know nothing of xsp."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import pandas as pd

from xsp.capture.schema import OPTIONAL_TABLES
from xsp.capture.schema import REQUIRED_TABLES as TABLES
from xsp.capture.writing import replacing, staged_folder, write_file
from xsp.errors import XspError
from xsp.words.labels import printable

if TYPE_CHECKING:
    from xsp.analysis.profile_data import ProfileData

PROFILE = "profile.json"
"""What is not a table: name, latency, levels, environment, warnings."""

_WRITERS: dict[str, Callable[[pd.DataFrame, BinaryIO], object]] = {
    "csv": lambda table, file: _harmless(table).to_csv(file, index=False),
    "parquet": lambda table, file: table.to_parquet(file, index=False),
}


def write_tables(prof: ProfileData, folder: Path, form: str) -> Path:
    """Write every table to `folder` as `NAME.csv` or `NAME.parquet` (`form`), and PROFILE; the
    folder is made.

    Tables: tree, spans, the raw tables of the capture, and those that were measured too
    (gpu_states, corrected, costs, closure_error, overhead, device_timeline). Raises XspError if the
    folder has other files in it, and WriteError, with the folder as it was, if one cannot be
    written.
    """
    tables = {name: table for name, table in _tables(prof) if len(table.columns)}
    names = {PROFILE, *(f"{name}.{form}" for name in tables)}
    if folder.exists() and not folder.is_dir():
        raise XspError(
            f"{str(folder)!r} is a file, but the tables need a folder; choose another with --output"
        )
    if folder.is_dir() and (
        others := sorted(path.name for path in folder.iterdir() if path.name not in names)
    ):
        raise XspError(
            f"the folder {str(folder)!r} has other files in it ({', '.join(others[:3])}); choose "
            "a new folder with --output"
        )
    with staged_folder(folder, last=PROFILE) as staged:
        for name, table in tables.items():
            with replacing(staged / f"{name}.{form}") as file:
                _WRITERS[form](table, file)
        write_file(staged / PROFILE, json.dumps(_facts(prof), indent=1, default=str).encode())
    return folder


_FORMULA = ("=", "+", "-", "@")
"""How a cell begins that spreadsheets compute."""


def _harmless(table: pd.DataFrame) -> pd.DataFrame:
    """The table with text that spreadsheets show and nobody obeys.

    Control characters become escapes, and an apostrophe stands before what would be a formula.
    """
    names = table.select_dtypes(include=["object", "string", "category"]).columns
    return table.assign(**{name: table[name].map(_shown) for name in names})


def _shown(value: object) -> object:
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if text.startswith(_FORMULA) else text


def _tables(prof: ProfileData) -> Iterator[tuple[str, pd.DataFrame]]:
    yield "tree", prof.tree()
    yield "spans", prof.spans
    for name in TABLES:
        if name != "spans":
            yield name, prof.table(name)
    for name in OPTIONAL_TABLES:
        with suppress(XspError):
            yield name, prof.table(name)
    yield "gpu_states", prof.gpu_states
    if (corrected := prof.corrected) is not None:
        yield "corrected", corrected
    yield "costs", prof.costs
    yield "closure_error", prof.closure_error.reset_index()
    yield "overhead", prof.overhead()
    yield "device_timeline", prof.device_timeline()


def _facts(prof: ProfileData) -> dict[str, object]:
    return {
        "name": prof.name,
        "latency_ms": prof.latency_ms,
        "latency_ci_ms": prof.latency_ci_ms,
        "kernels": prof.kernel_count,
        "lost": prof.lost,
        "levels": prof.levels.to_dict("records"),
        "environment": prof.environment,
        "clock": prof.clock,
        "warnings": prof.warnings,
    }
