"""A capture that is not read into memory: its tables by run are read a few runs at a time.

Rows lie in order of runs, in groups of a million, and each group's directory has its first and last
run (Parquet's statistics). So a range of runs is read without the rest of the file.
"""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from xsp.capture.file import entries_of, meta_of, reading, tables_in
from xsp.capture.limits import most_bytes, within
from xsp.capture.parquet import memory_bytes, read_parquet
from xsp.capture.table_checks import (
    BrokenTableError,
    check_relations,
    check_span_rows,
    checked_table,
)
from xsp.errors import CaptureError
from xsp.types import Level

BY_RUN = ("model_calls", "spans", "api_calls", "synchronizations", "ranges")
"""Tables of which a part is read; `runs` and what names things are read whole."""

_NOT_READ = ("graph_nodes",)
"""Tables of which nothing is summed, with a row for every span."""

Ints = npt.NDArray[np.int64]


class CaptureOnDisk:
    """An open capture file: `meta`, and in `tables` those that are small. Use as a context manager.

    Raises CaptureError as `load` does; a part may take as much memory as a whole capture.
    """

    def __init__(self, path: str | os.PathLike[str], max_bytes: int | None = None) -> None:
        self.path, self._most = Path(path), most_bytes(max_bytes)
        self._files: dict[str, pq.ParquetFile] = {}
        self._kept: dict[str, tuple[int, pa.Table]] = {}
        with reading(self.path), zipfile.ZipFile(self.path) as archive:
            entries = entries_of(self.path, archive)
            self.meta = meta_of(self.path, archive, self._most)
            names = tables_in(entries)
            if "repeats" in names:
                raise CaptureError(_separate(self.path))
            whole = [name for name in names if name not in (*BY_RUN, *_NOT_READ)]
            self.tables = {name: self._whole(name, archive) for name in whole}
        self._stream = self.path.open("rb")
        self.tables_by_run = [name for name in names if name in BY_RUN]
        try:
            self._open(entries)
        except BaseException:
            self._stream.close()
            raise

    def __enter__(self) -> CaptureOnDisk:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def _open(self, entries: Mapping[str, zipfile.ZipInfo]) -> None:
        with reading(self.path):
            for name in self.tables_by_run:
                window = _Window(self._stream, entries[f"{name}.parquet"])
                self._files[name] = _parquet(window)

    def events_by_run(self, name: str) -> Ints:
        """Rows of a table by run and level, of shape (runs, levels); without levels
        all in the first.
        """
        runs = len(self.tables["runs"])
        found = np.zeros((runs, len(Level)), dtype=np.int64)
        if name not in self._files:
            return found
        file, before = self._files[name], 0
        columns = [each for each in ("run", "level") if each in file.schema_arrow.names]
        with reading(self.path):
            for group in range(file.num_row_groups):
                read = file.read_row_group(group, columns=columns, use_threads=False)
                run = read.column("run").to_numpy().astype(np.int64)
                level = read.column("level").to_numpy() if "level" in columns else 0 * run
                if len(run):
                    _check(name, run, level, before, runs)
                    before = int(run[-1])
                    place = run * len(Level) + level
                    found += np.bincount(place, minlength=found.size).reshape(found.shape)
        return found

    def parts(
        self, cuts: Ints, names: tuple[str, ...] = BY_RUN
    ) -> Iterator[dict[str, pd.DataFrame]]:
        """Of the tables by run, the rows of the runs between each two cuts, checked as when a
        capture is opened; with all other tables. Spans are counted from 0 in each part.
        """
        first = 0
        for low, high in zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True):
            with reading(self.path):
                part = self._part(low, high, first, names)
                first += len(part["spans"])
                check_span_rows(part)
                if set(self.tables_by_run) <= set(names):
                    check_relations({**part, "runs": self.tables["runs"]})
            yield part

    def _part(
        self, low: int, high: int, first: int, names: tuple[str, ...]
    ) -> dict[str, pd.DataFrame]:
        part = dict(self.tables)
        for name in self.tables_by_run:
            if name in names:
                part[name] = checked_table(name, _moved(self._rows(name, low, high), name, first))
        part["runs"] = self.tables["runs"].iloc[low:high].reset_index(drop=True)
        return part

    def _rows(self, name: str, low: int, high: int) -> pa.Table:
        file = self._files[name]
        kept = []
        for group in range(file.num_row_groups):
            if _overlaps(file, group, low, high):
                read = self._group(name, group)
                run = read.column("run").to_numpy()
                begin, end = np.searchsorted(run, [low, high]).tolist()
                kept.append(read.slice(begin, end - begin))
        table = pa.concat_tables(kept) if kept else file.schema_arrow.empty_table()
        table = table.replace_schema_metadata(None)
        what = f"the table {name} of {str(self.path)!r}, runs {low} to {high - 1},"
        within(memory_bytes(table), self._most, what)
        return table

    def _group(self, name: str, group: int) -> pa.Table:
        number, table = self._kept.get(name, (-1, None))
        if number != group or table is None:
            file = self._files[name]
            said = file.metadata.row_group(group)
            what = f"a part of the table {name} of {str(self.path)!r}"
            within(said.num_rows * said.num_columns * 8, self._most, what)
            table = file.read_row_group(group, use_threads=False)
            self._kept[name] = (group, table)
        return table

    def _whole(self, name: str, archive: zipfile.ZipFile) -> pd.DataFrame:
        content = pa.py_buffer(archive.read(f"{name}.parquet"))
        what = f"the table {name} of {str(self.path)!r}"
        return checked_table(name, read_parquet(content, self._most, what))


def _separate(path: Path) -> str:
    return (
        f"{str(path)!r} is of a separate ladder, whose events all repeat those of one run, and "
        "cannot be read a few runs at a time; read it whole with xsp.load(path, max_bytes=...)"
    )


def _check(name: str, run: Ints, level: Ints, before: int, runs: int) -> None:
    """Raises BrokenTableError unless rows lie in order of their runs, from `before` on, and there
    are such runs and levels.
    """
    if run[0] < before or (run[1:] < run[:-1]).any():
        raise BrokenTableError(f"{name} has rows that are not in order of their runs")
    if run[-1] >= runs:
        raise BrokenTableError(f"{name}.run refers to a run that there is not")
    if level.min() < 0 or level.max() >= len(Level):
        raise BrokenTableError(f"{name}.level has a level that there is not")


def _parquet(window: _Window) -> pq.ParquetFile:
    with pq.ParquetFile(window, arrow_extensions_enabled=False) as file:
        kinds = {field.name: field.type for field in file.schema_arrow}
    texts = [
        name
        for name, kind in kinds.items()
        if pa.types.is_string(kind) or pa.types.is_large_string(kind)
    ]
    return pq.ParquetFile(window, read_dictionary=texts, arrow_extensions_enabled=False)


def _overlaps(file: pq.ParquetFile, group: int, low: int, high: int) -> bool:
    column = file.schema_arrow.get_field_index("run")
    said = file.metadata.row_group(group).column(column).statistics
    if said is None or not said.has_min_max:
        return True
    return bool(said.min < high and said.max >= low)


def _moved(table: pa.Table, name: str, first: int) -> pa.Table:
    """The table with rows of spans counted from `first` on."""
    if name not in {"spans", "api_calls"}:
        return table
    column = "parent"
    values = table.column(column).to_numpy().astype(np.int64)
    moved = np.where(values < 0, values, values - first)
    if ((values >= 0) & (moved < 0)).any():
        raise BrokenTableError(f"{name}.{column} refers to a row of other runs")
    place = table.schema.get_field_index(column)
    return table.set_column(place, column, pa.array(moved))


class _Window(io.RawIOBase):
    """The bytes of an uncompressed entry of a zip, as a file."""

    def __init__(self, stream: BinaryIO, entry: zipfile.ZipInfo) -> None:
        super().__init__()
        stream.seek(entry.header_offset)
        header = stream.read(30)
        lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        self._stream, self._size = stream, entry.file_size
        self._begin, self._at = entry.header_offset + 30 + lengths, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(origin + offset, 0)
        return self._at

    def readinto(self, buffer: Any) -> int:
        self._stream.seek(self._begin + self._at)
        view = memoryview(buffer)[: max(self._size - self._at, 0)]
        content = self._stream.read(len(view))
        view[: len(content)] = content
        self._at += len(content)
        return len(content)
