"""Mutants of captures: valid containers with wrong contents, and wrong containers."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from fuzz.choices import Choices, pick
from fuzz.documents import HOSTILE, mutated

_NUMBERS = (
    -1,
    0,
    1,
    2,
    3,
    7,
    255,
    2**15,
    2**31 - 1,
    2**31,
    2**40,
    2**53,
    2**62,
    -(2**31),
    -(2**62),
)
_TYPES = ("int8", "int64", "uint64", "float64", "bool", "str", "datetime64[ns]", "category")


@dataclass(frozen=True)
class Seed:
    """A capture taken apart."""

    manifest: Any
    tables: dict[str, pd.DataFrame]
    packed: dict[str, bytes]

    @classmethod
    def of(cls, path: Path) -> Seed:
        """The capture in a file."""
        with zipfile.ZipFile(path) as archive:
            packed = {name: archive.read(name) for name in archive.namelist()}
        manifest = json.loads(packed.pop("manifest.json"))
        tables = {name: pd.read_parquet(io.BytesIO(data)) for name, data in packed.items()}
        return cls(manifest, tables, packed)


def write_mutant(seed: Seed, choices: Choices, path: Path) -> None:
    """Write a mutant of the seed."""
    manifest, packed = seed.manifest, dict(seed.packed)
    if not choices.below(3):
        manifest = {**manifest, "meta": mutated(manifest["meta"], choices)}
    else:
        for _ in range(1 + choices.below(2)):
            name = pick(choices, list(seed.tables))
            packed[name] = _parquet(seed.tables[name], choices, seed.packed[name])
    method = zipfile.ZIP_STORED if choices.below(50) else zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("manifest.json", json.dumps(manifest))
        for name, content in packed.items():
            archive.writestr(name, content)


def _parquet(table: pd.DataFrame, choices: Choices, otherwise: bytes) -> bytes:
    """A mutant as Parquet; the table as it was where no column can hold what the mutant has."""
    buffer = io.BytesIO()
    try:
        mutant = _mutated_table(table, choices)
        pq.write_table(pa.Table.from_pandas(mutant, preserve_index=False), buffer)
    except (pa.ArrowException, UnicodeError, OverflowError, ValueError, TypeError):
        return otherwise
    return buffer.getvalue()


def _mutated_table(table: pd.DataFrame, choices: Choices) -> pd.DataFrame:
    column = pick(choices, list(table.columns))
    if not len(table):
        return table.drop(columns=[column]) if choices.below(2) else table
    action = choices.below(10)
    if action < 6:
        return _mutated_cells(table, column, choices)
    if action == 6:
        return table.drop(columns=[column])
    if action == 7:
        return table.iloc[: choices.below(len(table) + 1)]
    if action == 8:
        order = sorted(range(len(table)), key=lambda _: choices.below(1 << 30))
        return table.iloc[order] if len(table) < 500 else pd.concat([table, table.iloc[:5]])
    try:
        kind: Any = pick(choices, _TYPES)
        return table.assign(**{str(column): table[column].astype(kind)})
    except (ValueError, TypeError, OverflowError):
        return table


def _mutated_cells(table: pd.DataFrame, column: str, choices: Choices) -> pd.DataFrame:
    """One cell, several or all of a column become another number or text."""
    values = table[column].astype(object).to_numpy().copy()
    is_text = isinstance(values[0], str)
    texts = [each for each in HOSTILE if isinstance(each, str)]
    value: Any = pick(choices, texts) if is_text else pick(choices, _NUMBERS)
    place = choices.below(len(values))
    if is_text and choices.below(2):
        value = _mutated_text(values[place], choices)
    if not is_text and choices.below(2) and values[place] is not None:
        value = int(values[place]) + pick(choices, (1, -1, place, len(values)))
    many = choices.below(4)
    values[place if many else slice(None)] = value
    if pd.api.types.is_integer_dtype(table[column].dtype):
        try:
            kind: Any = table[column].dtype
            return table.assign(**{column: values.astype(kind)})
        except (OverflowError, ValueError, TypeError):
            pass
    return table.assign(**{column: values.tolist()})


def _mutated_text(text: str, choices: Choices) -> str:
    """JSON with other contents, where the text is JSON."""
    try:
        document = json.loads(text)
    except ValueError:
        return text + pick(choices, ("\x1b[0m", "`", "\u202e", "/", ".0", "::add"))
    try:
        return json.dumps(mutated(document, choices))
    except ValueError:
        return text
