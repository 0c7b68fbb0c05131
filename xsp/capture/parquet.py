"""Tables as Parquet in memory: small on disk, and not larger in memory than is allowed."""

from __future__ import annotations

import io
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from xsp.capture.limits import within


def to_parquet(table: pd.DataFrame) -> bytes:
    """The table as a Parquet file."""
    arrow = pa.Table.from_pandas(table, preserve_index=False)
    integers = [field.name for field in arrow.schema if pa.types.is_integer(field.type)]
    others = [field.name for field in arrow.schema if field.name not in integers]
    buffer = io.BytesIO()
    # Stamps and indices grow steadily: as differences they take a few bits where plain they take
    # eight bytes.
    pq.write_table(
        arrow,
        buffer,
        compression="zstd",
        compression_level=9,
        use_dictionary=others,
        column_encoding=dict.fromkeys(integers, "DELTA_BINARY_PACKED"),
    )
    return buffer.getvalue()


def read_parquet(content: pa.Buffer, most: int, what: str) -> pa.Table:
    """The table of a Parquet file, of at most `most` bytes.

    The file's own directory tells the rows and bytes before anything is unpacked; text is unpacked
    once for each distinct value, and counted before it is repeated for every row. Raises
    CaptureError beyond the limit, ArrowException for a damaged file.
    """
    # The schema that pandas and Arrow add is not read: it can name types and indices of its own.
    with pq.ParquetFile(content, arrow_extensions_enabled=False) as file:
        within(_unpacked(file.metadata), most, what)
        texts = [field.name for field in file.schema_arrow if is_text(field.type)]
        known = file.metadata
    with pq.ParquetFile(
        content, metadata=known, read_dictionary=texts, arrow_extensions_enabled=False
    ) as file:
        # Tables of this size are read no faster by several threads.
        table = file.read(use_threads=False).replace_schema_metadata(None)
    within(memory_bytes(table), most, what)
    return table


def memory_bytes(table: pa.Table) -> int:
    """Bytes of a table with its texts repeated for every row, as pandas holds them."""
    return sum(_spread(column) for column in table.columns)


def is_text(kind: Any) -> bool:
    """Whether a column of this type holds text."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


_WIDEST = 8
"""Bytes of a number, or of a place in a dictionary of texts, in memory."""


def _unpacked(metadata: pq.FileMetaData) -> int:
    """Bytes that the table takes with each text held once, as its directory says."""
    packed = sum(
        metadata.row_group(group).column(column).total_uncompressed_size
        for group in range(metadata.num_row_groups)
        for column in range(metadata.num_columns)
    )
    return int(max(packed, metadata.num_rows * metadata.num_columns * _WIDEST))


def _spread(column: pa.ChunkedArray) -> int:
    if not pa.types.is_dictionary(column.type):
        return int(column.nbytes)
    return sum(_length(chunk) for chunk in column.chunks)


def _length(chunk: pa.DictionaryArray) -> int:
    lengths = pc.binary_length(chunk.dictionary)
    return int(pc.sum(lengths.take(chunk.indices)).as_py() or 0) + _WIDEST * len(chunk)
