"""Capture files as other writers, or somebody who means harm, would write them."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

Change = Callable[[pd.DataFrame], pd.DataFrame]


def rewritten(
    path: Path, source: Path, table: str = "", change: Change | None = None, **options: Any
) -> Path:
    """A capture with one table changed; `options` are those of `pyarrow.parquet.write_table`."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith(".parquet"):
                frame = pq.read_table(io.BytesIO(content)).to_pandas()
                if change is not None and name == f"{table}.parquet":
                    frame = change(frame)
                buffer = io.BytesIO()
                frame.to_parquet(buffer, index=False, **options)
                content = buffer.getvalue()
            new.writestr(name, content)
    return path


def with_entry(path: Path, source: Path, name: str, content: bytes) -> Path:
    """A capture with another content of one of its files."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w") as new:
        for each in old.namelist():
            new.writestr(each, content if each == name else old.read(each))
    return path


def with_value(column: str, row: int, value: int) -> Change:
    """Another value in one row; rows below 0 count from the end."""

    def change(table: pd.DataFrame) -> pd.DataFrame:
        table.loc[table.index[row], column] = value
        return table

    return change
