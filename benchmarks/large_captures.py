"""Captures of any size, for measuring what analysing takes: the bundled one of a transformer (four
levels, recorded on an H100) with its rounds, and then the work of each run, repeated.
"""

from __future__ import annotations

import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

import xsp
from xsp.capture.file import Capture
from xsp.capture.parquet import to_parquet
from xsp.types import Level

CAPTURE = Path(__file__).parent.parent / "examples" / "captures" / "h100_transformer.xsp"
_BY_RUN = ("runs", "model_calls", "spans", "api_calls", "synchronizations")
_TIMES = ("start_ns", "end_ns", "host_end_ns")


MOST_ROUNDS = 100
"""A profile has no more; one with more spans is of a program that does more in each run."""


def sized(spans: int) -> tuple[dict[str, pd.DataFrame], int, int]:
    """Tables of runs that do as much work as a capture of so many spans takes, how many rounds
    these are, and how many it takes.
    """
    whole = _counted_by_run(xsp.load(CAPTURE)._capture.tables)
    rounds = int(whole["runs"]["round"].max()) + 1
    wanted = max(round(spans / (len(whole["spans"]) / rounds)), 5)
    longer = _longer(whole, -(-wanted // MOST_ROUNDS))
    return longer, rounds, min(wanted, MOST_ROUNDS)


def repeated(spans: int) -> xsp.Profile:
    """A profile of about so many spans: the bundled one with its rounds repeated up to 100, then
    with the work of each run repeated.
    """
    longer, rounds, wanted = sized(spans)
    parts = [_shifted(longer, number, rounds) for number in range(-(-wanted // rounds))]
    tables = dict(longer)
    for name in _BY_RUN:
        tables[name] = pd.concat([part[name] for part in parts], ignore_index=True)
    del parts, longer
    return xsp.Profile(Capture(xsp.load(CAPTURE)._capture.meta, _first_rounds(tables, wanted)))


def save(spans: int, path: Path) -> None:
    """Write the same to a file, a few rounds at a time: one of 100 million spans is larger than
    many memories.
    """
    longer, rounds, wanted = sized(spans)
    with (
        tempfile.TemporaryDirectory(dir=path.parent) as folder,
        zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive,
        zipfile.ZipFile(CAPTURE) as original,
    ):
        archive.writestr("manifest.json", original.read("manifest.json"))
        files = _written(longer, rounds, wanted, Path(folder))
        for name, table in longer.items():
            if name in files:
                archive.write(files[name], f"{name}.parquet")
            else:
                archive.writestr(f"{name}.parquet", to_parquet(table))


def _written(
    longer: dict[str, pd.DataFrame], rounds: int, wanted: int, folder: Path
) -> dict[str, Path]:
    """The tables by run as files."""
    files = {name: folder / f"{name}.parquet" for name in _BY_RUN}
    writers: dict[str, pq.ParquetWriter] = {}
    for number in range(-(-wanted // rounds)):
        part = _first_rounds(_shifted(longer, number, rounds), wanted)
        for name, file in files.items():
            arrow = pa.Table.from_pandas(part[name], preserve_index=False)
            if name not in writers:
                writers[name] = pq.ParquetWriter(file, arrow.schema, compression="zstd")
            writers[name].write_table(arrow, row_group_size=1 << 20)
    for writer in writers.values():
        writer.close()
    return files


def _counted_by_run(tables: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """With correlation ids that begin anew with every run: they have 32 bits."""
    names = ("spans", "api_calls", "synchronizations")
    used = pd.concat([tables[name][["run", "correlation_id"]] for name in names])
    first = used[used["correlation_id"] > 0].groupby("run")["correlation_id"].min()
    found = dict(tables)
    for name in names:
        ids = tables[name]["correlation_id"]
        before = tables[name]["run"].map(first).fillna(0).astype(ids.dtype)
        found[name] = tables[name].assign(correlation_id=ids.where(ids == 0, ids - before + 1))
    return found


def _longer(tables: dict[str, pd.DataFrame], times: int) -> dict[str, pd.DataFrame]:
    """The same runs, each doing its work so many times."""
    runs, spans, found = tables["runs"], tables["spans"], dict(tables)
    lasts = runs.set_index("run")["latency_ns"].max() + 1_000
    most_ids = int(spans["correlation_id"].max()) + 1
    whole = (tables["layers"]["kind"] == "none").to_numpy()[
        np.where(spans["level"] == Level.LAYER, spans["detail"], 0)
    ]
    once = (spans["level"] == Level.MODEL) | ((spans["level"] == Level.LAYER) & whole)
    for name in ("api_calls", "synchronizations", "spans"):
        table = tables[name]
        copies = []
        for number in range(times):
            copy = table.assign(copy=number, before=np.arange(len(table)))
            for column in (column for column in _TIMES if column in table):
                copy[column] += lasts * number
            used = copy["correlation_id"] > 0
            copy["correlation_id"] = copy["correlation_id"].where(
                ~used, copy["correlation_id"] + most_ids * number
            )
            copies.append(copy if number == 0 or name != "spans" else copy[~once.to_numpy()])
        joined = pd.concat(copies, ignore_index=True)
        joined = joined.sort_values(["run", "copy", "before"], kind="stable", ignore_index=True)
        found[name] = joined
    placed = found["spans"]
    places = np.zeros((times, len(spans)), dtype=np.int64)
    places[:] = np.flatnonzero(placed["copy"] == 0)
    places[placed["copy"], placed["before"]] = np.arange(len(placed))
    for name in ("spans", "api_calls"):
        parent = found[name]["parent"].to_numpy()
        moved = places[found[name]["copy"], np.maximum(parent, 0)]
        found[name] = found[name].assign(
            parent=np.where(parent < 0, parent, moved).astype(np.int32)
        )
    for name in ("spans", "api_calls", "synchronizations"):
        found[name] = found[name].drop(columns=["copy", "before"])
    added = lasts * (times - 1)
    is_whole = found["spans"].index.isin(places[0][once.to_numpy()])
    found["spans"].loc[is_whole, "duration_ns"] += added
    found["runs"] = runs.assign(
        latency_ns=runs["latency_ns"] + added, host_latency_ns=runs["host_latency_ns"] + added
    )
    calls = tables["model_calls"]
    ends = {name: calls[name] + added for name in ("host_end_ns", "end_ns")}
    found["model_calls"] = calls.assign(**ends)
    return found


def _shifted(tables: dict[str, pd.DataFrame], number: int, rounds: int) -> dict[str, pd.DataFrame]:
    """The tables of runs as those of the `number`-th repetition, which comes after the others."""
    runs = tables["runs"]
    lasts_ns = int((runs["start_ns"] + runs["latency_ns"]).max() - runs["start_ns"].min()) * 2
    rows = {"run": len(runs), "round": rounds, "parent": len(tables["spans"])}
    found = {}
    for name in _BY_RUN:
        table = tables[name].copy()
        for column in (column for column in _TIMES if column in table):
            table[column] += lasts_ns * number
        for column in (column for column in rows if column in table):
            value = table[column]
            table[column] = value.where(value < 0, value + rows[column] * number)
        found[name] = table
    return found


def _first_rounds(tables: dict[str, pd.DataFrame], wanted: int) -> dict[str, pd.DataFrame]:
    """Without the runs from this round on. Spans are in order of their runs."""
    kept = tables["runs"].loc[tables["runs"]["round"] < wanted, "run"]
    last = int(kept.max())
    return tables | {name: tables[name][tables[name]["run"] <= last] for name in _BY_RUN}
